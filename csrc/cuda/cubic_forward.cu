#include "cuda/cubic_forward.h"

namespace ffrl::cuda {

template void launch_gram_matrix(StreamLauncher&, const float*, int, int, int, Precision, float*);
template void launch_gram_matrix(StreamLauncher&, const double*, int, int, int, Precision, double*);
template void launch_squares(StreamLauncher&, const CubicOperands<float>&, LaplacianForm, bool, Precision,
                             float*, float*, float*);
template void launch_squares(StreamLauncher&, const CubicOperands<double>&, LaplacianForm, bool, Precision,
                             double*, double*, double*);

}  // namespace ffrl::cuda
