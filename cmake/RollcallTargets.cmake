# rollcall_library(NAME base SRCS a.cc b.cc DEPS rollcall::proto absl::status)
#   One library per folder; sources are listed by hand. The target is rollcall_<NAME>, used as rollcall::<NAME>.
#   Without SRCS it is a header-only library.
# rollcall_binary(NAME rollcall-generator SRCS main.cc DEPS rollcall::generator)
# rollcall_test(NAME base_test SRCS a_test.cc DEPS rollcall::base [LABELS unit] [TIMEOUT seconds] [ARGS …] [ENV A=b …])
#   One gtest binary and one ctest entry; the label is `unit` unless said.

add_library(rollcall_warnings INTERFACE)
target_compile_options(rollcall_warnings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
                       -Wno-missing-field-initializers -Werror)

# Data that tests read when it is there: ../shared/data beside the checkout, or $ROLLCALL_TEST_DATA.
set(ROLLCALL_TEST_DATA "${CMAKE_SOURCE_DIR}/../shared/data" CACHE PATH "folder of real inputs and golden numbers")

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

function(rollcall_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS} rollcall_warnings)
  target_include_directories(${ARG_NAME} PRIVATE ${CMAKE_SOURCE_DIR})
endfunction()

function(rollcall_test)
  cmake_parse_arguments(ARG "" "NAME;TIMEOUT" "SRCS;DEPS;LABELS;ARGS;ENV" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  rollcall_binary(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} ${ARG_ARGS})
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "ROLLCALL_TEST_DATA=${ROLLCALL_TEST_DATA};ROLLCALL_SOURCE_DIR=${CMAKE_SOURCE_DIR};ROLLCALL_BIN_DIR=${CMAKE_RUNTIME_OUTPUT_DIRECTORY};${ARG_ENV}")
endfunction()
