#!/bin/sh
# Removes files that no program uses from a virtual environment: trim_packages.sh VENV. These are torch's C++ headers, test
# programs and protoc, static libraries, symbol tables that only a debugger or a linker reads, and the packages' own
# tests. The Dockerfile then checks the remaining files by running the service.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
before=$(du -sm "$packages" | cut -f1)

rm -rf "$packages"/torch/test "$packages"/torch/include "$packages"/torch/share/cmake "$packages"/pyarrow/include
find "$packages"/torch/bin -mindepth 1 -maxdepth 1 ! -name torch_shm_manager -exec rm -rf {} +
rm -f "$packages"/torch/lib/*_test.so "$packages"/torch/lib/libbackend_with_compiler.so "$packages"/torch/lib/libaoti_custom_ops.so
find "$packages" -name '*.a' -delete
for name in matplotlib networkx numpy pyarrow scipy sklearn sympy; do
    if [ -d "$packages/$name" ]; then find "$packages/$name" -type d -name tests -prune -exec rm -rf {} +; fi
done
# Exported symbols and unwind tables stay: .dynsym and .eh_frame are not what this strips.
strip --strip-unneeded "$packages"/torch/lib/libtorch_cpu.so "$packages"/torch/lib/libtorch_python.so "$packages"/torch/lib/libc10.so

echo "$packages: $before MB, $(du -sm "$packages" | cut -f1) MB after trimming"
