# Compiler launcher, linker and sanitizers. ccache and mold are used when present and never required.

find_program(ROLLCALL_CCACHE ccache)
if(ROLLCALL_CCACHE)
  # base_dir and no hash_dir: two checkouts of the same sources share their objects.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${ROLLCALL_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()

find_program(ROLLCALL_MOLD mold)
if(ROLLCALL_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

set(ROLLCALL_SANITIZE "" CACHE STRING "Sanitizers of every target: address,undefined or thread")
if(ROLLCALL_SANITIZE)
  add_compile_options(-fsanitize=${ROLLCALL_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${ROLLCALL_SANITIZE})
endif()
