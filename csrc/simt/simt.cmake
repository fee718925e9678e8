# Builds of the kernels for the emulator. Included by the top CMakeLists.txt (module _simt) and by tests/simt/CMakeLists.txt.
#   wsss_simt_runtime(NAME)                   a static library with the runtime; link it to what runs kernels
#   wsss_simt_sources(OUTPUT_VARIABLE FILE…)  .cu files under csrc/ as C++ sources
# WSSS_SIMT_KIND chooses the build: plain; asan, with UBSan; tsan; ucontext, plain without the assembly for x86-64.

set(WSSS_SIMT_KIND plain CACHE STRING "plain, asan, tsan or ucontext")
get_filename_component(WSSS_SIMT_CSRC "${CMAKE_CURRENT_LIST_DIR}/.." ABSOLUTE)

# Each .cu file is included by a generated .cpp file: the same file can then be CUDA in another target of this build.
function(wsss_simt_sources output)
  set(generated)
  foreach(source IN LISTS ARGN)
    get_filename_component(full "${source}" ABSOLUTE)
    file(RELATIVE_PATH path "${WSSS_SIMT_CSRC}" "${full}")
    string(REPLACE "/" "_" stem "${path}")
    set(wrapper "${CMAKE_CURRENT_BINARY_DIR}/simt/${stem}.cpp")
    file(CONFIGURE OUTPUT "${wrapper}" CONTENT "#include \"${path}\"\n")
    list(APPEND generated "${wrapper}")
  endforeach()
  set(${output} ${generated} PARENT_SCOPE)
endfunction()

function(wsss_simt_runtime name)
  file(GLOB sources CONFIGURE_DEPENDS "${WSSS_SIMT_CSRC}/simt/*.cpp")
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${sources})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(${name} PUBLIC "${WSSS_SIMT_CSRC}")
  target_compile_features(${name} PUBLIC cxx_std_17)
  target_compile_definitions(${name} PUBLIC WSSS_SIMT)
  target_compile_options(${name} PUBLIC -Wno-unknown-pragmas PRIVATE -Wall -Wextra)
  find_package(Threads REQUIRED)
  target_link_libraries(${name} PUBLIC Threads::Threads)
  if(WSSS_SIMT_KIND STREQUAL "asan")
    set(flags -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
    target_compile_options(${name} PUBLIC ${flags})
    target_link_options(${name} PUBLIC ${flags})
  elseif(WSSS_SIMT_KIND STREQUAL "tsan")
    # The runtime's own accesses are bookkeeping, not accesses of a kernel: only what links to it is instrumented.
    target_compile_definitions(${name} PRIVATE WSSS_SIMT_TSAN=1)
    target_compile_options(${name} INTERFACE -fsanitize=thread)
    target_link_options(${name} PUBLIC -fsanitize=thread)
  elseif(WSSS_SIMT_KIND STREQUAL "ucontext")
    target_compile_definitions(${name} PRIVATE WSSS_SIMT_UCONTEXT)
  elseif(NOT WSSS_SIMT_KIND STREQUAL "plain")
    message(FATAL_ERROR "WSSS_SIMT_KIND must be plain, asan, tsan or ucontext, got '${WSSS_SIMT_KIND}'")
  endif()
endfunction()
