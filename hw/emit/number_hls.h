// Rounding and saturation of codesign.numerics.fixed_point for HLS: half to even, then clamped. Nothing else rounds.
#pragma once

#ifndef AP_INT_MAX_W
#define AP_INT_MAX_W 4096
#endif
#include <ap_int.h>

namespace codesign {

// x / 2^shift, rounded to the nearest integer, ties to even; from a shift of W on the result is 0.
template <int W>
ap_int<W> round_half_even(ap_int<W> x, ap_uint<6> shift) {
#pragma HLS INLINE
    const ap_uint<6> places = shift < W ? shift : ap_uint<6>(W);
    const ap_int<W + 2> wide = x;
    const ap_int<W + 2> floor = wide >> places;
    const ap_int<W + 2> half = (ap_int<W + 2>(1) << places) >> 1;
    const ap_int<W + 2> even = ap_int<W + 2>(1) - ap_int<W + 2>(floor[0]);
    const ap_int<W + 2> sum = wide + half - even;
    return places == 0 ? x : ap_int<W>(ap_int<W + 2>(sum >> places));
}

// x, no smaller than low and no larger than high.
template <int R, int W>
ap_int<R> saturate(ap_int<W> x, ap_int<R> low, ap_int<R> high) {
#pragma HLS INLINE
    return x < low ? low : (x > high ? high : ap_int<R>(x));
}

// x in R bits, saturated.
template <int R, int W>
ap_int<R> saturate_bits(ap_int<W> x) {
#pragma HLS INLINE
    const ap_int<R> high = ap_uint<R>(~ap_uint<R>(0)) >> 1;
    return saturate<R>(x, ap_int<R>(~high), high);
}

// saturate(round_half_even(x * multiplier, shift), low, high)
template <int R, int W>
ap_int<R> requantize(ap_int<W> x, ap_uint<17> multiplier, ap_uint<6> shift, ap_int<R> low, ap_int<R> high) {
#pragma HLS INLINE
    const ap_int<W + 17> product = x * multiplier;
    return saturate<R>(round_half_even<W + 17>(product, shift), low, high);
}

}  // namespace codesign
