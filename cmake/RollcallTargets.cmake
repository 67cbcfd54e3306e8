# rollcall_library(NAME base SRCS a.cc b.cc DEPS rollcall::proto absl::status)
#   One library per folder; sources are listed by hand. The target is rollcall_<NAME>, used as rollcall::<NAME>.
#   Without SRCS it is a header-only library.
# rollcall_binary(NAME rollcall-generator SRCS main.cc DEPS rollcall::generator)
#   The target rollcall_programs builds all of these and nothing else: what a run needs. Those named rollcall… are
#   installed (Packaging.cmake).
# rollcall_benchmark(NAME wire_bench SRCS a_bench.cc DEPS rollcall::wire)
#   A Google Benchmark binary, built and run by `./rollcall bench`.
# rollcall_test(NAME base_test SRCS a_test.cc DEPS rollcall::base [LABELS unit] [TIMEOUT seconds] [SERIAL] [ARGS …]
#               [ENV A=b …])
#   One gtest binary and one ctest entry; the label is `unit` unless said. SERIAL: no other test runs beside it.

add_library(rollcall_warnings INTERFACE)
target_compile_options(rollcall_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
                       -Wno-missing-field-initializers -Werror)

# Data that tests read when it is there: ../shared/data beside the checkout, or $ROLLCALL_TEST_DATA.
set(ROLLCALL_TEST_DATA "${CMAKE_SOURCE_DIR}/../shared/data" CACHE PATH "folder of real inputs and golden numbers")

# A Python with grpcio, for the tests that speak to the services as a user's program would; ./rollcall test makes it.
if(DEFINED ENV{XDG_CACHE_HOME})
  set(_cache_folder $ENV{XDG_CACHE_HOME}/rollcall)
else()
  set(_cache_folder $ENV{HOME}/.cache/rollcall)
endif()
set(ROLLCALL_PYTHON "${_cache_folder}/test-venv/bin/python" CACHE FILEPATH "Python with grpcio, for tests")

function(rollcall_library)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(rollcall_${ARG_NAME} STATIC ${ARG_SRCS})
    target_link_libraries(rollcall_${ARG_NAME} PUBLIC ${ARG_DEPS} PRIVATE rollcall_warnings)
    target_include_directories(rollcall_${ARG_NAME} PUBLIC ${CMAKE_SOURCE_DIR})
  else()
    add_library(rollcall_${ARG_NAME} INTERFACE)
    target_link_libraries(rollcall_${ARG_NAME} INTERFACE ${ARG_DEPS})
    target_include_directories(rollcall_${ARG_NAME} INTERFACE ${CMAKE_SOURCE_DIR})
  endif()
  add_library(rollcall::${ARG_NAME} ALIAS rollcall_${ARG_NAME})
endfunction()

add_custom_target(rollcall_programs)
add_custom_target(rollcall_benchmarks)

function(_rollcall_executable name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} rollcall_warnings)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
endfunction()

function(rollcall_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  _rollcall_executable(${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS})
  add_dependencies(rollcall_programs ${ARG_NAME})
  if(ARG_NAME MATCHES "^rollcall($|-)")
    set_target_properties(${ARG_NAME} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib/rollcall")
    install(TARGETS ${ARG_NAME} RUNTIME DESTINATION bin COMPONENT programs)
  endif()
endfunction()

function(rollcall_benchmark)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  _rollcall_executable(${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} benchmark::benchmark_main)
  set_target_properties(${ARG_NAME} PROPERTIES
    EXCLUDE_FROM_ALL TRUE
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_RUNTIME_OUTPUT_DIRECTORY}/bench)
  add_dependencies(rollcall_benchmarks ${ARG_NAME})
endfunction()

# What every test may ask its environment for. Idle OpenMP threads sleep and none is bound to a core: tests share them.
set(ROLLCALL_TEST_ENVIRONMENT
  OMP_WAIT_POLICY=passive
  ROLLCALL_PIN_THREADS=0
  ROLLCALL_TEST_DATA=${ROLLCALL_TEST_DATA}
  ROLLCALL_SOURCE_DIR=${CMAKE_SOURCE_DIR}
  ROLLCALL_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY}
  ROLLCALL_PYTHON=${ROLLCALL_PYTHON})

function(rollcall_test)
  cmake_parse_arguments(ARG "SERIAL" "NAME;TIMEOUT" "SRCS;DEPS;LABELS;ARGS;ENV" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  _rollcall_executable(${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} ${ARG_ARGS})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    RUN_SERIAL ${ARG_SERIAL} ENVIRONMENT "${ROLLCALL_TEST_ENVIRONMENT};${ARG_ENV}")
endfunction()
