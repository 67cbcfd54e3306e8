# LibTorch from the PyPI wheel as imported targets of our own. TorchConfig.cmake wants a CUDA toolkit, and
# torch/include ships protobuf 3.13 and fmt 12 headers that would shadow the system's: only the folders that belong
# to LibTorch are exposed, through links.
#
# ROLLCALL_TORCH_ROOT: <site-packages>/torch of the wheel; ./rollcall passes it.
set(ROLLCALL_TORCH_ROOT "$ENV{ROLLCALL_TORCH_ROOT}" CACHE PATH "site-packages/torch of the torch wheel")
if(NOT EXISTS ${ROLLCALL_TORCH_ROOT}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "ROLLCALL_TORCH_ROOT='${ROLLCALL_TORCH_ROOT}' holds no lib/libtorch_cpu.so. "
                      "./rollcall build installs the wheel and passes the right folder.")
endif()

set(_torch_include ${CMAKE_BINARY_DIR}/torch_include)
file(MAKE_DIRECTORY ${_torch_include})
foreach(_folder ATen c10 caffe2 torch)
  file(CREATE_LINK ${ROLLCALL_TORCH_ROOT}/include/${_folder} ${_torch_include}/${_folder} SYMBOLIC)
endforeach()

add_library(torch_c10 SHARED IMPORTED GLOBAL)
set_target_properties(torch_c10 PROPERTIES
  IMPORTED_LOCATION ${ROLLCALL_TORCH_ROOT}/lib/libc10.so
  INTERFACE_INCLUDE_DIRECTORIES ${_torch_include})
add_library(torch_cpu SHARED IMPORTED GLOBAL)
set_target_properties(torch_cpu PROPERTIES
  IMPORTED_LOCATION ${ROLLCALL_TORCH_ROOT}/lib/libtorch_cpu.so
  INTERFACE_INCLUDE_DIRECTORIES "${_torch_include};${_torch_include}/torch/csrc/api/include"
  INTERFACE_LINK_LIBRARIES torch_c10)
# libtorch_cpu finds its OpenMP and its two CUDA stubs by its own RUNPATH; the linker need not check them.
set_property(TARGET torch_cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS -Wl,--allow-shlib-undefined)
