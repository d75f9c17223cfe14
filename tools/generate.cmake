# generate.cmake -- manual pages and completion into the folder OUT, written by PROGRAM.
cmake_minimum_required(VERSION 3.25)
file(REMOVE_RECURSE ${OUT})
file(MAKE_DIRECTORY ${OUT}/man1)

execute_process(COMMAND ${PROGRAM} help --names OUTPUT_VARIABLE names COMMAND_ERROR_IS_FATAL ANY)
string(STRIP "${names}" names)
string(REPLACE "\n" ";" names "${names}")
execute_process(COMMAND ${PROGRAM} help --man OUTPUT_FILE ${OUT}/man1/cartridge.1 COMMAND_ERROR_IS_FATAL ANY)
foreach(name ${names})
  execute_process(COMMAND ${PROGRAM} help --man ${name} OUTPUT_FILE ${OUT}/man1/cartridge-${name}.1
                  COMMAND_ERROR_IS_FATAL ANY)
endforeach()
find_program(GZIP gzip)
if(GZIP) # as Debian wants them: without name and time, so that the same pages give the same bytes
  file(GLOB pages ${OUT}/man1/*.1)
  execute_process(COMMAND ${GZIP} -9n ${pages} COMMAND_ERROR_IS_FATAL ANY)
endif()

execute_process(COMMAND ${PROGRAM} completion bash OUTPUT_FILE ${OUT}/cartridge.bash COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${PROGRAM} completion zsh OUTPUT_FILE ${OUT}/_cartridge COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${PROGRAM} completion fish OUTPUT_FILE ${OUT}/cartridge.fish COMMAND_ERROR_IS_FATAL ANY)
file(TOUCH ${OUT}/done)
