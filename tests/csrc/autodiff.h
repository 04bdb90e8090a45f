// Derivatives without a formula of the op: Taylor coefficients along a line, and a tape for the gradients of
// whatever was computed with them.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace ffrl::test {

// A number on the tape; node -1: a constant.
struct Var {
    double value = 0;
    int node = -1;

    Var(double constant = 0) : value(constant) {}
    Var(double value, int node) : value(value), node(node) {}
    bool is_zero() const { return node < 0 && value == 0; }
};

class Tape {
  public:
    void clear() { nodes_.clear(); }
    int size() const { return static_cast<int>(nodes_.size()); }

    Var leaf(double value) { return push(value, {-1, -1, 0, 0}); }
    Var result(double value, Var a, double d_a, Var b = {}, double d_b = 0) {
        if (a.node < 0 && b.node < 0) return {value};
        return push(value, {a.node, b.node, d_a, d_b});
    }

    // adjoint: of every node, those of the outputs on entry
    void sweep(std::vector<double>& adjoint) const {
        for (size_t i = nodes_.size(); i-- > 0;) {
            const Node& node = nodes_[i];
            if (node.a >= 0) adjoint[static_cast<size_t>(node.a)] += node.d_a * adjoint[i];
            if (node.b >= 0) adjoint[static_cast<size_t>(node.b)] += node.d_b * adjoint[i];
        }
    }

  private:
    struct Node {
        int a, b;
        double d_a, d_b;
    };
    Var push(double value, const Node& node) {
        nodes_.push_back(node);
        return {value, size() - 1};
    }
    std::vector<Node> nodes_;
};

inline Tape& tape() {
    static Tape one;
    return one;
}

inline Var operator+(Var a, Var b) {
    if (a.is_zero()) return b;
    if (b.is_zero()) return a;
    return tape().result(a.value + b.value, a, 1, b, 1);
}
inline Var operator-(Var a, Var b) {
    return tape().result(a.value - b.value, a, 1, b, -1);
}
inline Var operator*(Var a, Var b) {
    if (a.is_zero() || b.is_zero()) return {};
    return tape().result(a.value * b.value, a, b.value, b, a.value);
}
inline Var tanh(Var x) {
    const double h = std::tanh(x.value);
    return tape().result(h, x, (1 - h) * (1 + h));
}

inline Var sin(Var x) {
    return tape().result(std::sin(x.value), x, std::cos(x.value));
}
inline Var cos(Var x) {
    return tape().result(std::cos(x.value), x, -std::sin(x.value));
}

// Density and distribution function of the standard normal.
inline Var normal_density(Var x) {
    const double density = std::exp(-x.value * x.value / 2) / std::sqrt(2 * std::acos(-1.0));
    return tape().result(density, x, -x.value * density);
}
inline Var normal_distribution(Var x) {
    return tape().result(std::erfc(-x.value / std::sqrt(2.0)) / 2, x, normal_density(x.value).value);
}

// f(s) = f0 + f1 s + f2 s² + ...
struct Jet {
    Var f0, f1, f2;
};

inline Jet operator+(const Jet& x, const Jet& y) {
    return {x.f0 + y.f0, x.f1 + y.f1, x.f2 + y.f2};
}
inline Jet operator*(Var a, const Jet& x) {
    return {a * x.f0, a * x.f1, a * x.f2};
}

inline Jet operator*(const Jet& x, const Jet& y) {
    return {x.f0 * y.f0, x.f0 * y.f1 + x.f1 * y.f0, x.f0 * y.f2 + x.f1 * y.f1 + x.f2 * y.f0};
}

// f(x) from the value of f at x.f0, its first derivative there, and half the second.
inline Jet compose(const Jet& x, Var value, Var slope, Var half_curvature) {
    return {value, slope * x.f1, slope * x.f2 + half_curvature * x.f1 * x.f1};
}

inline Jet tanh(const Jet& x) {
    const Var h = tanh(x.f0), slope = (Var(1) - h) * (Var(1) + h);
    return compose(x, h, slope, Var(-1) * h * slope);
}
inline Jet sin(const Jet& x) {
    return compose(x, sin(x.f0), cos(x.f0), Var(-0.5) * sin(x.f0));
}
inline Jet cos(const Jet& x) {
    return compose(x, cos(x.f0), Var(-1) * sin(x.f0), Var(-0.5) * cos(x.f0));
}
inline Jet gelu(const Jet& x) {
    const Var density = normal_density(x.f0);
    return x * compose(x, normal_distribution(x.f0), density, Var(-0.5) * x.f0 * density);
}

}  // namespace ffrl::test
