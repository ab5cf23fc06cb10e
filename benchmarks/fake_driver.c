/* A CUDA driver that does nothing: what Triton's launcher calls, on a machine without a GPU. One device, an H100. */
#include <stddef.h>
#include <stdint.h>

#define NOTHING(name) \
  int name(void) { return 0; }
NOTHING(cuInit)
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxSetLimit)
NOTHING(cuFuncSetAttribute)
NOTHING(cuFuncSetCacheConfig)
NOTHING(cuModuleUnload)
NOTHING(cuStreamIsCapturing)
NOTHING(cuTensorMapEncodeTiled)
NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuOccupancyMaxActiveClusters)

#define GIVES(name, type, value) \
  int name(type* result) {       \
    *result = (type)(value);     \
    return 0;                    \
  }
GIVES(cuCtxGetCurrent, uintptr_t, 1)
GIVES(cuCtxGetDevice, int, 0)
GIVES(cuDeviceGet, int, 0)
GIVES(cuDeviceGetCount, int, 1)
GIVES(cuDevicePrimaryCtxRetain, uintptr_t, 1)
GIVES(cuDriverGetVersion, int, 13020)
GIVES(cuCtxGetLimit, size_t, 0)
GIVES(cuModuleLoadData, uintptr_t, 1)
GIVES(cuModuleGetFunction, uintptr_t, 1)
GIVES(cuFuncGetAttribute, int, 1024)

int cuDeviceGetAttribute(int* result, int attribute, int device) {
  (void)device;
  *result = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : attribute == 97 ? 232448 : 65536;
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  (void)error;
  *text = "the driver that does nothing was asked for a word";
  return 0;
}
int cuPointerGetAttribute(uintptr_t* result, int attribute, uintptr_t pointer) {
  (void)attribute;
  *result = pointer;
  return 0;
}

static long launches;
int cuLaunchKernelEx(const void* config, void* function, void** parameters, void** extra) {
  (void)config, (void)function, (void)parameters, (void)extra;
  ++launches;
  return 0;
}
int cuLaunchKernel(void) {
  ++launches;
  return 0;
}
long fake_driver_launches(void) { return launches; }
