# build_info.cmake -- writes OUT, a header that says what was built; run at each build, so that the commit is right.
# The file changes only when its text does.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git -c safe.directory=* -C ${SOURCE} describe --always --dirty --abbrev=12
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit "unknown")
endif()
execute_process(COMMAND git -c safe.directory=* -C ${SOURCE} log -1 --format=%cs
                OUTPUT_VARIABLE date OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT
"/* build_info.h -- written by tools/build_info.cmake */
#define BUILD_VERSION \"@VERSION@\"
#define BUILD_COMMIT \"@commit@\"
#define BUILD_DATE \"@date@\" /* of the commit */
#define BUILD_TYPE \"@TYPE@\"
#define BUILD_COMPILER \"@COMPILER@\"
#define BUILD_SYSTEM \"@SYSTEM@\"
#define BUILD_GPU \"@GPU@\"
#define BUILD_LIBRARIES \"@LIBRARIES@\"
")
