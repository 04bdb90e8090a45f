// The Python module ffrl._C_cuda. Importing it loads the library, and so registers the kernels of the
// operators; its functions say what it is compiled for and which GPUs there are, without making a context on
// one.
#include <Python.h>
#include <cuda_runtime_api.h>

#define FFRL_TEXT(tokens) FFRL_TEXT_OF(tokens)
#define FFRL_TEXT_OF(tokens) #tokens

namespace {

PyObject* architectures(PyObject*, PyObject*) {
    return PyUnicode_FromString(FFRL_TEXT(FFRL_ARCHITECTURES));
}

PyObject* capabilities(PyObject*, PyObject*) {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        cudaGetLastError();  // is nobody else's
        count = 0;
    }
    PyObject* list = PyList_New(0);
    for (int device = 0; list != nullptr && device < count; ++device) {
        int major = 0, minor = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        PyObject* pair = Py_BuildValue("(ii)", major, minor);
        if (pair == nullptr || PyList_Append(list, pair) < 0) Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    return list;
}

PyMethodDef methods[] = {
    {"architectures", architectures, METH_NOARGS, "What it is compiled for, such as '8.0_9.0a_10.0+PTX'."},
    {"capabilities", capabilities, METH_NOARGS, "The compute capability (major, minor) of every GPU here."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C_cuda", "The CUDA kernels of ffrl.", -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() {
    return PyModule_Create(&definition);
}
