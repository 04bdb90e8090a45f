// The entry points.
#include "cuda/compiled_elsewhere.h"
#include "cuda/potential_cuda.h"

namespace ffrl::cuda {

template <class T>
cudaError_t forward(const PotentialShape& shape, const PotentialInputs<T>& inputs,
                    const PotentialOutputs<T>& outputs, T* kept, bool keep, void* workspace,
                    Precision precision, cudaStream_t stream) {
    StreamLauncher launch(stream);
    launch_forward(launch, shape, inputs, outputs, kept, keep, workspace, precision);
    return launch.error();
}

template <class T>
cudaError_t backward(const PotentialShape& shape, const PotentialInputs<T>& inputs, const T* kept,
                     const PotentialCotangents<T>& cotangents, const PotentialGradients<T>& gradients,
                     void* workspace, Precision precision, cudaStream_t stream) {
    StreamLauncher launch(stream);
    launch_backward(launch, shape, inputs, kept, cotangents, gradients, workspace, precision);
    return launch.error();
}

template size_t forward_workspace<float>(const PotentialShape&, bool, bool);
template size_t forward_workspace<double>(const PotentialShape&, bool, bool);
template size_t backward_workspace<float>(const PotentialShape&, bool, bool, bool);
template size_t backward_workspace<double>(const PotentialShape&, bool, bool, bool);
template cudaError_t forward(const PotentialShape&, const PotentialInputs<float>&,
                             const PotentialOutputs<float>&, float*, bool, void*, Precision, cudaStream_t);
template cudaError_t forward(const PotentialShape&, const PotentialInputs<double>&,
                             const PotentialOutputs<double>&, double*, bool, void*, Precision, cudaStream_t);
template cudaError_t backward(const PotentialShape&, const PotentialInputs<float>&, const float*,
                              const PotentialCotangents<float>&, const PotentialGradients<float>&, void*,
                              Precision, cudaStream_t);
template cudaError_t backward(const PotentialShape&, const PotentialInputs<double>&, const double*,
                              const PotentialCotangents<double>&, const PotentialGradients<double>&, void*,
                              Precision, cudaStream_t);

}  // namespace ffrl::cuda
