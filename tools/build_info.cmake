# build_info.cmake -- writes OUT, a header that says what was built; run at each build, so that the commit is right.
# The file changes only when its text does.
execute_process(COMMAND git -c safe.directory=* -C ${SOURCE} describe --always --dirty --abbrev=12
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit "unknown")
endif()
file(CONFIGURE OUTPUT ${OUT} @ONLY CONTENT
"/* build_info.h -- written by tools/build_info.cmake */
#define BUILD_VERSION \"@VERSION@\"
#define BUILD_COMMIT \"@commit@\"
#define BUILD_TYPE \"@TYPE@\"
#define BUILD_COMPILER \"@COMPILER@\"
#define BUILD_LIBRARIES \"@LIBRARIES@\"
")
