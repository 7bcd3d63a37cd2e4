// The linear kernel for HLS: int8 matrix products with requantization, table and residual add on the way out.
//
// Four processes run side by side on one group of N_L rows after another:
//   fetch  unpacks the requantization table and the weights from bus words, once per command
//   load   copies the group's rows into a private double buffer
//   array  walks the tiles, T_OUT columns each; one weight word, T_IN x T_OUT weights, per cycle
//   drain  requantizes a finished tile, one row of T_OUT columns per cycle
// A command with more rows than N_L reads its weights again from an on-chip ring, so they must fit it.
#pragma once

#include "number_hls.h"

#include <hls_stream.h>

namespace codesign {

template <int T_IN, int T_OUT, int N_L, int KW_MAX, int RING_WORDS, int TABLE_WORDS, int TABLES, int WORD_BYTES>
struct Linear {
    static const int ACC_BITS = 27;
    static const int ROW_BYTES = KW_MAX * WORD_BYTES;
    static const int UNIT = T_IN > WORD_BYTES ? T_IN : WORD_BYTES;
    static const int WEIGHT_PARTS = T_IN * T_OUT / WORD_BYTES;
    static const int TABLE_PARTS = 8 * T_OUT / WORD_BYTES;
    static const int USE_TABLE = 2;

    typedef ap_uint<8 * WORD_BYTES> bus_t;
    typedef ap_uint<16 * T_OUT> out_t;

    // The part of a weight word that belongs to one column.
    typedef ap_uint<8 * T_IN> column_t;

    // Requantization of one column: 32 bits of bias, 17 of multiplier, 6 of shift.
    typedef ap_uint<64> requant_t;

    // Sums of one row and tile.
    struct sums_t {
        ap_int<ACC_BITS> column[T_OUT];
    };

    // Rows of a group.
    static int rows_of(ap_uint<16> rows, int group) {
#pragma HLS INLINE
        const int left = int(rows) - group * N_L;
        return left < N_L ? left : N_L;
    }

    static void fetch(int group, ap_uint<16> ib, ap_uint<16> ob, hls::stream<bus_t>& constants,
                      hls::stream<requant_t> table[T_OUT], hls::stream<column_t> weights[T_OUT]) {
        if (group != 0) return;
        const unsigned heads = ob * TABLE_PARTS;
        ap_uint<8> head[8 * T_OUT];
#pragma HLS ARRAY_PARTITION variable=head complete
        int part = 0;
    fetch_table:
        for (unsigned i = 0; i < heads; i++) {
#pragma HLS PIPELINE II=1
            const bus_t word = constants.read();
            for (int b = 0; b < WORD_BYTES; b++) {
#pragma HLS UNROLL
                head[part * WORD_BYTES + b] = byte(word, b);
            }
            if (part == TABLE_PARTS - 1) {
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    table[c].write(joined<8>(head, c));
                }
            }
            part = part == TABLE_PARTS - 1 ? 0 : part + 1;
        }

        const unsigned bodies = ob * ib * WEIGHT_PARTS;
        ap_uint<8> body[T_IN * T_OUT];
#pragma HLS ARRAY_PARTITION variable=body complete
        part = 0;
    fetch_weights:
        for (unsigned i = 0; i < bodies; i++) {
#pragma HLS PIPELINE II=1
            const bus_t word = constants.read();
            for (int b = 0; b < WORD_BYTES; b++) {
#pragma HLS UNROLL
                body[part * WORD_BYTES + b] = byte(word, b);
            }
            if (part == WEIGHT_PARTS - 1) {
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    weights[c].write(joined<T_IN>(body, c));
                }
            }
            part = part == WEIGHT_PARTS - 1 ? 0 : part + 1;
        }
    }

    // COUNT bytes from the index-th such piece on, as one word.
    template <int COUNT, int SIZE>
    static ap_uint<8 * COUNT> joined(const ap_uint<8> (&bytes)[SIZE], int index) {
#pragma HLS INLINE
        ap_uint<8 * COUNT> word = 0;
        for (int b = 0; b < COUNT; b++) {
#pragma HLS UNROLL
            word.range(8 * b + 7, 8 * b) = bytes[index * COUNT + b];
        }
        return word;
    }

    static ap_uint<8> byte(bus_t word, int at) {
#pragma HLS INLINE
        return word.range(8 * at + 7, 8 * at);
    }

    static void load(int group, ap_uint<16> rows, ap_uint<16> kw, hls::stream<bus_t>& source,
                     ap_int<8> x[N_L][ROW_BYTES]) {
        const int count = rows_of(rows, group);
    load_rows:
        for (int l = 0; l < count; l++) {
#pragma HLS LOOP_TRIPCOUNT max=N_L
        load_words:
            for (int w = 0; w < kw; w++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=KW_MAX
                const bus_t word = source.read();
                for (int b = 0; b < WORD_BYTES; b++) {
#pragma HLS UNROLL
                    x[l][w * WORD_BYTES + b] = byte(word, b);
                }
            }
        }
    }

    static void array(int group, ap_uint<16> rows, ap_uint<16> ib, ap_uint<16> ob, ap_int<8> x[N_L][ROW_BYTES],
                      hls::stream<column_t> weights[T_OUT], hls::stream<sums_t> sums[N_L]) {
        static column_t ring[T_OUT][RING_WORDS];
#pragma HLS ARRAY_PARTITION variable=ring complete dim=1
        const int count = rows_of(rows, group);
        const unsigned words = ob * ib;
        sums_t total[N_L];
#pragma HLS ARRAY_PARTITION variable=total complete
        ap_uint<16> s = 0;
    array_words:
        for (unsigned i = 0; i < words; i++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=RING_WORDS
#pragma HLS DEPENDENCE variable=ring type=inter dependent=false
            const unsigned slot = i % RING_WORDS;
            column_t w[T_OUT];
#pragma HLS ARRAY_PARTITION variable=w complete
            for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                if (group == 0) {
                    w[c] = weights[c].read();
                    ring[c][slot] = w[c];
                } else {
                    w[c] = ring[c][slot];
                }
            }
            for (int l = 0; l < N_L; l++) {
#pragma HLS UNROLL
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    ap_int<ACC_BITS> dot = 0;
                    for (int b = 0; b < T_IN; b++) {
#pragma HLS UNROLL
                        const ap_int<8> weight = w[c].range(8 * b + 7, 8 * b);
                        dot += x[l][s * T_IN + b] * weight;
                    }
                    total[l].column[c] = (s == 0 ? ap_int<ACC_BITS>(0) : total[l].column[c]) + dot;
                }
                if (s == ib - 1 && l < count) sums[l].write(total[l]);
            }
            s = s == ib - 1 ? ap_uint<16>(0) : ap_uint<16>(s + 1);
        }
    }

    // The sums of row l of the group; streams are chosen between by constants.
    static sums_t take(hls::stream<sums_t> sums[N_L], int l) {
#pragma HLS INLINE
        sums_t total;
        for (int i = 0; i < N_L; i++) {
#pragma HLS UNROLL
            if (i == l) total = sums[i].read();
        }
        return total;
    }

    static void drain(int group, ap_uint<16> rows, ap_uint<16> ob, ap_uint<8> flags, ap_uint<8> table_number,
                      ap_int<16> low, ap_int<16> high, ap_uint<8> addend, const ap_int<8> tables[256 * TABLES],
                      hls::stream<requant_t> table[T_OUT], hls::stream<sums_t> sums[N_L],
                      hls::stream<out_t>& addends, hls::stream<out_t>& target) {
        static requant_t requant[T_OUT][TABLE_WORDS];
#pragma HLS ARRAY_PARTITION variable=requant complete dim=1
        static ap_int<8> lut[T_OUT][256];
#pragma HLS ARRAY_PARTITION variable=lut complete dim=1
        if (group == 0) {
        drain_table:
            for (int t = 0; t < ob; t++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=TABLE_WORDS
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    requant[c][t] = table[c].read();
                }
            }
        drain_lut:
            for (int i = 0; i < 256; i++) {
#pragma HLS PIPELINE II=1
                const ap_int<8> entry = tables[256 * table_number + i];
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    lut[c][i] = entry;
                }
            }
        }
        const int count = rows_of(rows, group);
    drain_tiles:
        for (int t = 0; t < ob; t++) {
#pragma HLS LOOP_TRIPCOUNT max=TABLE_WORDS
        drain_rows:
            for (int l = 0; l < count; l++) {
#pragma HLS PIPELINE II=1
#pragma HLS LOOP_TRIPCOUNT max=N_L
                const sums_t total = take(sums, l);
                const out_t residual = addend != 0 ? addends.read() : out_t(0);
                out_t out;
                for (int c = 0; c < T_OUT; c++) {
#pragma HLS UNROLL
                    const requant_t q = requant[c][t];
                    const ap_int<32> bias = q.range(31, 0);
                    const ap_uint<17> multiplier = q.range(48, 32);
                    const ap_uint<6> shift = q.range(54, 49);
                    const ap_int<ACC_BITS> acc = total.column[c] + bias;
                    const ap_int<16> value = requantize<16>(acc, multiplier, shift, low, high);
                    const ap_int<16> term = residual.range(16 * c + 15, 16 * c);
                    const ap_int<16> looked = lut[c][ap_uint<8>(value)];
                    const ap_int<16> added = saturate_bits<16>(ap_int<17>(value + term));
                    out.range(16 * c + 15, 16 * c) = (flags & USE_TABLE) != 0 ? looked : added;
                }
                target.write(out);
            }
        }
    }

    // All groups of a command: a loop over a dataflow region, as the tool asks for, alone in its function.
    static void run_groups(int groups, ap_uint<16> rows, ap_uint<16> kw, ap_uint<16> ib, ap_uint<16> ob,
                           ap_uint<8> flags, ap_uint<8> table_number, ap_int<16> low, ap_int<16> high,
                           ap_uint<8> addend, const ap_int<8> tables[256 * TABLES], hls::stream<bus_t>& source,
                           hls::stream<bus_t>& constants, hls::stream<out_t>& addends, hls::stream<out_t>& target) {
    row_groups:
        for (int group = 0; group < groups; group++) {
#pragma HLS DATAFLOW
            ap_int<8> x[N_L][ROW_BYTES];
#pragma HLS ARRAY_PARTITION variable=x complete dim=1
#pragma HLS ARRAY_PARTITION variable=x cyclic factor=UNIT dim=2
            hls::stream<requant_t> table[T_OUT];
#pragma HLS STREAM variable=table depth=2
            hls::stream<column_t> weights[T_OUT];
#pragma HLS STREAM variable=weights depth=2
            hls::stream<sums_t> sums[N_L];
#pragma HLS STREAM variable=sums depth=2
            fetch(group, ib, ob, constants, table, weights);
            load(group, rows, kw, source, x);
            array(group, rows, ib, ob, x, weights, sums);
            drain(group, rows, ob, flags, table_number, low, high, addend, tables, table, sums, addends, target);
        }
    }

    // One command; see the top function for its arguments.
    static void run(ap_uint<16> rows, ap_uint<16> kw, ap_uint<16> ib, ap_uint<16> ob, ap_uint<8> flags,
                    ap_uint<8> table_number, ap_int<16> low, ap_int<16> high, ap_uint<8> addend,
                    const ap_int<8> tables[256 * TABLES], hls::stream<bus_t>& source, hls::stream<bus_t>& constants,
                    hls::stream<out_t>& addends, hls::stream<out_t>& target) {
        const int groups = (int(rows) + N_L - 1) / N_L;
        run_groups(groups, rows, kw, ib, ob, flags, table_number, low, high, addend, tables, source, constants,
                   addends, target);
    }
};

}  // namespace codesign
