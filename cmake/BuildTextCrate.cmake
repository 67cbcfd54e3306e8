# cmake -DCARGO=… -DCRATE=… -DOUT=… -P BuildTextCrate.cmake
#
# Builds the Rust crate in CRATE and puts its static library at OUT. The result is cached by a hash of the sources,
# the lock file and the compiler's version, outside of every checkout: another worktree, a clean build or a return to
# older sources costs a copy. Cargo goes to the registry only for crates that it has not fetched yet.
cmake_minimum_required(VERSION 3.25)

if(DEFINED ENV{XDG_CACHE_HOME})
  set(_cache $ENV{XDG_CACHE_HOME}/rollcall/text-crate)
else()
  set(_cache $ENV{HOME}/.cache/rollcall/text-crate)
endif()

execute_process(COMMAND ${CARGO} --version OUTPUT_VARIABLE _version COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE _sources ${CRATE}/src/*.rs)
list(SORT _sources)
set(_fingerprint "${_version}")
foreach(_file ${_sources} ${CRATE}/Cargo.toml ${CRATE}/Cargo.lock)
  file(SHA256 ${_file} _hash)
  string(APPEND _fingerprint "${_hash}\n")
endforeach()
string(SHA256 _key "${_fingerprint}")
set(_archive ${_cache}/${_key}/librollcall_text.a)

if(NOT EXISTS ${_archive})
  file(MAKE_DIRECTORY ${_cache})
  # One builder at a time: cargo's own lock ends before its result could be copied away.
  file(LOCK ${_cache}/lock GUARD PROCESS TIMEOUT 1200)
endif()
if(NOT EXISTS ${_archive})
  set(_build ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${_cache}/target
      RUSTFLAGS=--remap-path-prefix=${CRATE}=rollcall_text
      ${CARGO} build --release --locked --quiet --manifest-path ${CRATE}/Cargo.toml)
  execute_process(COMMAND ${_build} --offline RESULT_VARIABLE _failed ERROR_VARIABLE _offline_error)
  if(_failed)
    execute_process(COMMAND ${_build} RESULT_VARIABLE _failed)
  endif()
  if(_failed)
    message(FATAL_ERROR "cargo could not build ${CRATE}; without the registry it said:\n${_offline_error}")
  endif()
  file(MAKE_DIRECTORY ${_cache}/${_key})
  file(COPY_FILE ${_cache}/target/release/librollcall_text.a ${_archive}.partial)
  file(RENAME ${_archive}.partial ${_archive})
endif()

file(COPY_FILE ${_archive} ${OUT})
file(TOUCH_NOCREATE ${OUT})
