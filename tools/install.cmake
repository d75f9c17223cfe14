# install.cmake -- what `cmake --install` puts where, and the Debian package of it.
#
# Manual pages and completion are written by the program itself, from the tables of its options, whenever it was linked
# anew: they cannot name an option that it does not have.
include(GNUInstallDirs)

set(generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
add_custom_command(OUTPUT ${generated}/done
  COMMAND ${CMAKE_COMMAND} -E env --unset=CARTRIDGE_CONFIG ${CMAKE_COMMAND} -DPROGRAM=$<TARGET_FILE:cartridge>
          -DOUT=${generated} -P ${CMAKE_CURRENT_SOURCE_DIR}/generate.cmake
  DEPENDS cartridge ${CMAKE_CURRENT_SOURCE_DIR}/generate.cmake
  COMMENT "manual pages and completion" VERBATIM)
add_custom_target(pages ALL DEPENDS ${generated}/done)

install(TARGETS cartridge RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${generated}/man1 DESTINATION ${CMAKE_INSTALL_MANDIR})
install(FILES ${generated}/cartridge.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME cartridge)
install(FILES ${generated}/cartridge.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES ${CMAKE_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
# Debian's zsh looks for packages in a folder of its own.
install(CODE "set(file \"${generated}/_cartridge\")")
install(CODE [[
  if(CMAKE_INSTALL_PREFIX STREQUAL "/usr" AND EXISTS /etc/debian_version)
    set(place vendor-completions)
  else()
    set(place site-functions)
  endif()
  file(INSTALL DESTINATION "${CMAKE_INSTALL_PREFIX}/share/zsh/${place}" TYPE FILE FILES "${file}")
]])

# `cpack -G DEB` in the build folder. Libraries that are linked are found by dpkg-shlibdeps.
find_program(DPKG_SHLIBDEPS dpkg-shlibdeps)
set(CPACK_PACKAGE_NAME cartridge)
set(CPACK_PACKAGE_CONTACT "The cartridge authors <cartridge@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "train small KV caches for long documents, and answer from them")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR DEB)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SUGGESTS openmpi-bin)
if(DPKG_SHLIBDEPS)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
endif()
include(CPack)
