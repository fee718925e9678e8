# For the wheels of a release; tools/wheels.py has CMake include this file after project().
#
# This machine's compiler compiles, so that a wheel is as fast as a build of one's own. Zig only links: it brings the symbols of
# every glibc, and the module then asks for none that is newer than WSSS_GLIBC. The C++ library is linked statically, because
# that of an old system lacks what this compiler needs; libgcc_s, which unwinds exceptions for the whole process, is not.
#   WSSS_ZIG    the program
#   WSSS_GLIBC  the oldest glibc that the module shall run with, such as 2.28

foreach(library libstdc++.a libgcc.a libgcc_s.so.1)
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=${library} OUTPUT_VARIABLE path OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT IS_ABSOLUTE "${path}")  # the compiler answers with the bare name when it has none
    message(FATAL_ERROR "wheels: ${CMAKE_CXX_COMPILER} must bring ${library}, got '${path}'. Hint: use GCC, for example CXX=g++")
  endif()
  string(APPEND runtime " ${path}")
endforeach()

# What newer headers and the static C++ library expect of glibc and an old one lacks. Zero says: there may be more threads.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/newer_glibc.c CONTENT "char __libc_single_threaded = 0;\n")
# Nothing but the function that Python looks for is seen from outside: no other library of the process may take part of ours.
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/exports.map CONTENT "{ global: PyInit_*; local: *; };\n")

set(CMAKE_CXX_CREATE_SHARED_MODULE
    "${WSSS_ZIG} cc -target ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu.${WSSS_GLIBC} -O3 -shared -s <LINK_FLAGS> -o <TARGET> <OBJECTS> ${CMAKE_BINARY_DIR}/newer_glibc.c <LINK_LIBRARIES>${runtime} -lm -lpthread -ldl -lrt -Wl,--version-script=${CMAKE_BINARY_DIR}/exports.map")
