// The vector kernel for HLS: layer norm and RMS norm of int16 rows.
//
// With WIDE every result has a place of 16 bits: of a command with that flag it is rounded to 16 bits,
// of another to 8 bits as ever and sign-extended.
//
// Four processes run side by side, each busy with another row:
//   statistics  reads a row once, keeps it in a queue and takes its sum and its sum of squares
//   root        the variance, scaled to 33 or 34 bits, and its square root, one digit per cycle
//   invert      the reciprocal of the root, one digit per cycle
//   normalise   takes the row from the queue and applies mean, reciprocal, gain and bias
// Ranges and formula: codesign.numerics.nonlinear.norm.
#pragma once

#include "number_hls.h"

#include <hls_stream.h>

namespace codesign {

template <int T_V, int MAX_D, int RING_WORDS, int WIDE = 0>
struct Vector {
    static const int MAX_WORDS = (MAX_D + T_V - 1) / T_V;
    static const int RMS = 1;
    static const int WIDE_RESULT = 2;
    static const int OUT_BITS = WIDE ? 16 : 8;
    static const int ROOT_DIGITS = 17;
    static const int QUOTIENT_DIGITS = 18;

    typedef ap_uint<16 * T_V> row_t;
    typedef ap_uint<64 * T_V> affine_t;
    typedef ap_uint<OUT_BITS * T_V> out_t;

    struct sums_t {
        ap_int<26> sum;
        ap_uint<41> squares;
    };

    struct root_t {
        ap_int<26> sum;
        ap_int<6> exponent;
        ap_uint<17> root;
    };

    struct factor_t {
        ap_int<26> sum;
        ap_int<6> exponent;
        ap_uint<17> reciprocal;
    };

    static int words_of(ap_uint<16> d) {
#pragma HLS INLINE
        return (int(d) + T_V - 1) / T_V;
    }

    static void statistics(ap_uint<16> rows, ap_uint<16> d, hls::stream<row_t>& source, hls::stream<row_t>& kept,
                           hls::stream<sums_t>& sums) {
        const int words = words_of(d);
    statistics_rows:
        for (int r = 0; r < rows; r++) {
            sums_t total;
            total.sum = 0;
            total.squares = 0;
        statistics_words:
            for (int w = 0; w < words; w++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=MAX_WORDS
                const row_t word = source.read();
                ap_int<26> sum = 0;
                ap_uint<41> squares = 0;
                for (int c = 0; c < T_V; c++) {
#pragma HLS UNROLL
                    const ap_int<16> value = word.range(16 * c + 15, 16 * c);
                    const ap_int<16> used = w * T_V + c < d ? value : ap_int<16>(0);
                    sum += used;
                    squares += ap_uint<31>(used * used);
                }
                total.sum += sum;
                total.squares += squares;
                kept.write(word);
            }
            sums.write(total);
        }
    }

    // Position of the highest one, from 1.
    static ap_uint<6> bit_length(ap_uint<52> x) {
#pragma HLS INLINE
        ap_uint<6> length = 0;
        for (int i = 0; i < 52; i++) {
#pragma HLS UNROLL
            if (x[i]) length = i + 1;
        }
        return length;
    }

    static void root(ap_uint<16> rows, ap_uint<16> d, ap_uint<8> flags, ap_uint<48> eps, hls::stream<sums_t>& sums,
                     hls::stream<root_t>& roots) {
    root_rows:
        for (int r = 0; r < rows; r++) {
            const sums_t total = sums.read();
            root_t result;
            result.sum = (flags & RMS) != 0 ? ap_int<26>(0) : total.sum;
            const ap_int<54> spread = d * total.squares - result.sum * result.sum + eps;
            const ap_uint<52> variance = spread > 1 ? ap_uint<52>(spread) : ap_uint<52>(1);
            const ap_int<7> twice = 34 - ap_int<7>(bit_length(variance));
            result.exponent = twice >> 1;
            const ap_uint<86> up = ap_uint<86>(variance) << (result.exponent > 0 ? 2 * int(result.exponent) : 0);
            ap_uint<34> left = up >> (result.exponent < 0 ? -2 * int(result.exponent) : 0);
            ap_uint<17> found = 0;
            ap_uint<20> rest = 0;
        root_digits:
            for (int i = 0; i < ROOT_DIGITS; i++) {
#pragma HLS PIPELINE II=1
                rest = (rest << 2) | ap_uint<2>(left >> 32);
                left <<= 2;
                const ap_uint<20> trial = (ap_uint<20>(found) << 2) | 1;
                const bool fits = rest >= trial;
                if (fits) rest -= trial;
                found = (found << 1) | ap_uint<17>(fits);
            }
            result.root = found;
            roots.write(result);
        }
    }

    static void invert(ap_uint<16> rows, hls::stream<root_t>& roots, hls::stream<factor_t>& factors) {
    invert_rows:
        for (int r = 0; r < rows; r++) {
            const root_t from = roots.read();
            // 2^33 / root, restoring: the first 16 digits of the dividend are less than the root.
            ap_uint<19> rest = 1 << 15;
            ap_uint<18> quotient = 0;
        invert_digits:
            for (int i = 0; i < QUOTIENT_DIGITS; i++) {
#pragma HLS PIPELINE II=1
                rest <<= 1;
                const bool fits = rest >= from.root;
                if (fits) rest -= from.root;
                quotient = (quotient << 1) | ap_uint<18>(fits);
            }
            factor_t result;
            result.sum = from.sum;
            result.exponent = from.exponent;
            result.reciprocal = quotient[17] ? ap_uint<17>(0x1ffff) : ap_uint<17>(quotient);
            factors.write(result);
        }
    }

    static void normalise(ap_uint<16> rows, ap_uint<16> d, ap_uint<6> shift, ap_uint<8> flags,
                          hls::stream<affine_t>& affine, hls::stream<row_t>& kept, hls::stream<factor_t>& factors,
                          hls::stream<out_t>& target) {
        affine_t affines[MAX_WORDS];
        const int words = words_of(d);
    normalise_affine:
        for (int w = 0; w < words; w++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=MAX_WORDS
            affines[w] = affine.read();
        }
    normalise_rows:
        for (int r = 0; r < rows; r++) {
            const factor_t factor = factors.read();
            const ap_uint<6> places = 23 - int(factor.exponent);
        normalise_words:
            for (int w = 0; w < words; w++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=MAX_WORDS
                const row_t word = kept.read();
                const affine_t terms = affines[w];
                out_t out;
                for (int c = 0; c < T_V; c++) {
#pragma HLS UNROLL
                    const ap_int<16> value = word.range(16 * c + 15, 16 * c);
                    const ap_int<32> bias = terms.range(64 * c + 31, 64 * c);
                    const ap_int<16> gain = terms.range(64 * c + 47, 64 * c + 32);
                    const ap_int<27> centred = d * value - factor.sum;
                    const ap_int<44> scaled = centred * factor.reciprocal;
                    const ap_int<18> z = saturate_bits<18>(round_half_even<44>(scaled, places));
                    const ap_int<36> y = z * gain + bias;
                    const ap_int<36> rounded = round_half_even<36>(y, shift);
                    const ap_int<OUT_BITS> narrow = saturate_bits<8>(rounded);
                    const bool wide = WIDE && (flags & WIDE_RESULT) != 0;
                    const ap_int<OUT_BITS> result = wide ? saturate_bits<OUT_BITS>(rounded) : narrow;
                    out.range(OUT_BITS * c + OUT_BITS - 1, OUT_BITS * c) = result;
                }
                target.write(out);
            }
        }
    }

    // One command; see the top function for its arguments.
    static void run(ap_uint<16> rows, ap_uint<16> d, ap_uint<8> shift, ap_uint<8> flags, ap_uint<48> eps,
                    hls::stream<row_t>& source, hls::stream<affine_t>& affine, hls::stream<out_t>& target) {
#pragma HLS DATAFLOW
        hls::stream<row_t> kept("kept");
#pragma HLS STREAM variable=kept depth=RING_WORDS
        hls::stream<sums_t> sums("sums");
#pragma HLS STREAM variable=sums depth=2
        hls::stream<root_t> roots("roots");
#pragma HLS STREAM variable=roots depth=2
        hls::stream<factor_t> factors("factors");
#pragma HLS STREAM variable=factors depth=2
        statistics(rows, d, source, kept, sums);
        root(rows, d, flags, eps, sums, roots);
        invert(rows, roots, factors);
        normalise(rows, d, shift, flags, affine, kept, factors, target);
    }
};

}  // namespace codesign
