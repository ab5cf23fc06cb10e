// Makes a library importable as swin_fast._C or swin_fast._C_cuda. Loading it is all that happens: static initialisers
// in the other files register the kernels with torch's dispatcher.
#include <Python.h>

#define SWIN_FAST_TEXT_(name) #name
#define SWIN_FAST_TEXT(name) SWIN_FAST_TEXT_(name)
#define SWIN_FAST_INIT_(name) PyInit_##name
#define SWIN_FAST_INIT(name) SWIN_FAST_INIT_(name)

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, SWIN_FAST_TEXT(SWIN_FAST_MODULE), nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr,
};

PyMODINIT_FUNC SWIN_FAST_INIT(SWIN_FAST_MODULE)(void) { return PyModule_Create(&module_definition); }
