// The Python module ffrl._C. Importing it loads the library, and so registers the operators of schema.cpp;
// its two functions are about the instruction set of the CPU kernels.
#include <Python.h>

#include <cstring>

#include "cpu/capability.h"

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) {
    return PyUnicode_FromString(ffrl::cpu::capability());
}

PyObject* set_cpu_capability(PyObject*, PyObject* argument) {
    if (!PyUnicode_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "name must be a str, not %R", Py_TYPE(argument));
        return nullptr;
    }
    Py_ssize_t size = 0;
    const char* name = PyUnicode_AsUTF8AndSize(argument, &size);
    if (name == nullptr) {
        return nullptr;
    }
    const bool holds_null = std::strlen(name) != static_cast<size_t>(size);
    if (holds_null || !ffrl::cpu::set_capability(name)) {
        PyErr_Format(PyExc_ValueError,
                     "name = %R is not allowed; expected 'auto', 'avx512', 'avx2' or 'portable', "
                     "and an instruction set that this processor has",
                     argument);
        return nullptr;
    }
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "The instruction set that the CPU kernels use."},
    {"set_cpu_capability", set_cpu_capability, METH_O, "Choose the instruction set of the CPU kernels."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "The C++ kernels of ffrl.", -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
    return PyModule_Create(&definition);
}
