// Makes the library importable as swin_fast._C. Loading it is all that happens: static initialisers in the other files
// register the kernels with torch's dispatcher.
#include <Python.h>

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr,
};

PyMODINIT_FUNC PyInit__C(void) { return PyModule_Create(&module_definition); }
