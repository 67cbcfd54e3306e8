# cmake --install and CPack's Debian packages, in two components:
#
#   programs   bin/rollcall*, share/rollcall (configs, chart, dashboards, rules), share/doc/rollcall
#   libtorch   lib/rollcall: LibTorch of the wheel and what it needs without a GPU
#
# The tree may be moved as a whole: programs look for their libraries at $ORIGIN/../lib/rollcall. What Debian has is
# not in it; the package names what it depends on. `./rollcall package` runs all of this. Which programs are installed:
# rollcall_binary in RollcallTargets.cmake.

# What is installed is built by `./rollcall build`; tests need not be.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY TRUE)

set(_python_packages ${ROLLCALL_TORCH_ROOT}/..)
set(_libraries ${ROLLCALL_TORCH_ROOT}/lib/libtorch_cpu.so ${ROLLCALL_TORCH_ROOT}/lib/libc10.so
    ${ROLLCALL_TORCH_ROOT}/lib/libgomp.so.1 ${_python_packages}/nvidia/cu13/lib/libcudart.so.13
    ${_python_packages}/nvidia/cu13/lib/libcupti.so.13)
install(FILES ${_libraries} DESTINATION lib/rollcall COMPONENT libtorch)

install(DIRECTORY configs deploy/grafana deploy/helm deploy/kustomize deploy/prometheus
        DESTINATION share/rollcall COMPONENT programs PATTERN __pycache__ EXCLUDE PATTERN prometheus/tests EXCLUDE)
install(FILES README.md DESTINATION share/doc/rollcall COMPONENT programs)
install(DIRECTORY docs/ DESTINATION share/doc/rollcall/docs COMPONENT programs)

# Licences and a list of what is inside, made when something is installed: cargo must have fetched the crates.
set(_third_party ${CMAKE_BINARY_DIR}/third_party)
foreach(_component programs libtorch)
  install(CODE "
    execute_process(COMMAND python3 -B \"${CMAKE_SOURCE_DIR}/deploy/package/third_party.py\"
                            --crate \"${CMAKE_SOURCE_DIR}/common/text/crate\" --cargo \"${ROLLCALL_CARGO}\"
                            --wheels \"${_python_packages}\" --out \"${_third_party}\" COMMAND_ERROR_IS_FATAL ANY)"
    COMPONENT ${_component})
endforeach()
install(DIRECTORY ${_third_party}/programs/ DESTINATION share/doc/rollcall COMPONENT programs)
install(DIRECTORY ${_third_party}/libtorch/ DESTINATION share/doc/rollcall-libtorch COMPONENT libtorch)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME rollcall)
set(CPACK_PACKAGE_VENDOR "The Rollcall maintainers")
set(CPACK_PACKAGE_CONTACT "The Rollcall maintainers <maintainers@rollcall.invalid>")
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_COMPONENTS_ALL programs libtorch)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# dpkg-shlibdeps is to see what comes in the other package, and not to look for a package of it.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${ROLLCALL_TORCH_ROOT}/lib ${_python_packages}/nvidia/cu13/lib)

set(CPACK_DEBIAN_PROGRAMS_PACKAGE_NAME rollcall)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_DEPENDS "rollcall-libtorch (= ${PROJECT_VERSION})")
set(CPACK_DEBIAN_PROGRAMS_PACKAGE_SUGGESTS prometheus)
set(CPACK_COMPONENT_PROGRAMS_DESCRIPTION "online reinforcement learning of language models
 Services that sample, score and train, and the command that runs them.")
set(CPACK_DEBIAN_LIBTORCH_PACKAGE_NAME rollcall-libtorch)
set(CPACK_DEBIAN_LIBTORCH_PACKAGE_SECTION libs)
set(CPACK_COMPONENT_LIBTORCH_DESCRIPTION "LibTorch for CPUs, as Rollcall needs it
 Libraries of the torch wheel, private to Rollcall.")
include(CPack)
