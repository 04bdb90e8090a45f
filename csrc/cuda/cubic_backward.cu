#include "cuda/cubic_backward.h"

namespace ffrl::cuda {

template void launch_cubic_backward(StreamLauncher&, const CubicOperands<float>&, LaplacianForm, bool,
                                    Precision, float*, float*, float*, float*);
template void launch_cubic_backward(StreamLauncher&, const CubicOperands<double>&, LaplacianForm, bool,
                                    Precision, double*, double*, double*, double*);

}  // namespace ffrl::cuda
