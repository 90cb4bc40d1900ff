// The decoder loop of one utterance as one kernel, for Hopper; `tacotron2.hopper.persistent_decoder` compiles and
// launches it.
//
// Every multiprocessor keeps its share of the weights on chip for all steps: eight units of each LSTM (the attention
// LSTM's in registers, the decoder LSTM's in shared memory) and a row or two of the small layers. A step reads from
// memory only the values that other multiprocessors have computed.
//
// The blocks exchange values seven times a step, without a grid barrier. A value is written together with the number of
// its step (its tag), and a reader polls until it finds that number.
//
//   prenet (1) -> prenet (2) -> attention LSTM -> query -> energies -> context -> decoder LSTM -> (frame, next step)
//
// Each slot of the exchange holds the value of one step at a time. Overwriting it is safe: a block writes the next
// step's value only after it has seen values of all other blocks that depend on their reads of the slot.
//
// The prenet's first layer is folded into the projection, W1 (P x + b), so the next step needs no frame, except for the
// first step of a launch. While a value is on its way, products of known values are computed. Each warp multiplies its
// own columns of all rows, so it waits only for its own share of a vector.
//
// A `__syncthreads()` follows each store to the exchange: polling warps, and products that read shared memory at full
// rate, would delay the few threads whose stores all others wait for.
//
// No header is included: the machine that compiles this may have none.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;  // bits of an FP16 number

const int BLOCKS = 128, THREADS = 256, WARPS = 8;
const int MELS = 80, PRENET = 256, MEMORY = 512, HIDDEN = 1024, DIM = 128, TAPS = 31;
const int UNITS = HIDDEN / BLOCKS;      // of each LSTM in a block
const int ROWS = 4 * UNITS;             // of an LSTM's gates: input, forget, candidate, output
const int MAX_TEXT = 256, MAX_STEPS = 32;
const int SYMBOLS = MAX_TEXT / BLOCKS;  // of a block, at most
const int COPIES = 4;                   // of each exchanged value, or all would read the same few lines
const int ATTENTION_TILES = 14, DECODER_TILES = 20;  // 16 columns wide, of a warp
const int SMALL = 12;                   // words of a thread's share of the small layers

struct Tagged { u32 value, tag; };

// Values that blocks exchange. 16-bit values carry their tag in the upper half of the word.
struct Exchange {
    u32 prenet1[COPIES][PRENET], prenet2[COPIES][PRENET], attention[COPIES][HIDDEN], context[COPIES][MEMORY],
        decoder[COPIES][HIDDEN];
    Tagged query[COPIES][DIM], energies[COPIES][MAX_TEXT];
    u32 step;  // the tag of the next launch's first step
};

struct Weights {
    const uint4 *attention;   // (BLOCKS, WARPS, ATTENTION_TILES, 2, 32): fragments of 16 x 16 weights
    const uint4 *decoder;     // (BLOCKS, WARPS, DECODER_TILES, 2, 32)
    const float *attention_bias, *decoder_bias;  // (BLOCKS, ROWS)
    const uint4 *small;       // (BLOCKS, THREADS, SMALL / 4)
    const float *small_bias;  // (BLOCKS, 3): of the first prenet layer's two rows and of the projection's
    const u16 *location;      // (2, TAPS, DIM)
    const float *v;           // (DIM)
    const u16 *prenet;        // (PRENET, MELS): the first layer as it is, for a launch's first step
};

struct Launch {
    // The state before the first step; the kernel leaves the state after the last one. A frame has MELS values, weights
    // and their sums have `text`.
    u16 *attention_hidden, *attention_cell, *decoder_hidden, *decoder_cell, *sums, *context, *frame, *alignment;
    const u16 *memory, *processed_memory;  // (text, MEMORY), (text, DIM)
    const unsigned char *padding;          // (text), 1 where padding
    u16 *frames, *gates, *alignments;      // (steps, MELS), (steps), (steps, text); the last may be null
    Exchange *exchange;
    int text, steps;
    unsigned char kept[MAX_STEPS][2][PRENET / 8];  // a bit for each value, 0 where the prenet drops it
};

#define INLINE static __device__ __forceinline__

INLINE float to_float(u32 half) {
    float x;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "r"(half));
    return x;
}
INLINE u32 to_half(float x) {
    u32 h;
    asm("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.u32.u16 %0, h; }" : "=r"(h) : "f"(x));
    return h;
}
INLINE float low(u32 pair) { return to_float(pair & 0xffff); }
INLINE float high(u32 pair) { return to_float(pair >> 16); }

#define INFINITE __int_as_float(0x7f800000)
INLINE float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
INLINE float sigmoid(float x) { return __fdividef(1.f, 1.f + exp2_(-1.4426950408889634f * x)); }
INLINE float tanh_(float x) { return 2.f * sigmoid(2.f * x) - 1.f; }

INLINE float warp_sum(float x) {
    for (int d = 16; d; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
    return x;
}
// Sums of two or four values in as few exchanges as of one: half of a warp, or a quarter, gets each sum.
INLINE float warp_sum(float a, float b, int lane) {
    bool second = lane & 16;
    float x = (second ? b : a) + __shfl_xor_sync(~0u, second ? a : b, 16);
    for (int d = 8; d; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
    return x;
}
INLINE float warp_sum(float a, float b, float c, float d, int lane) {
    bool later = lane & 16, second = lane & 8;
    float x = (later ? c : a) + __shfl_xor_sync(~0u, later ? a : c, 16);
    float y = (later ? d : b) + __shfl_xor_sync(~0u, later ? b : d, 16);
    x = (second ? y : x) + __shfl_xor_sync(~0u, second ? x : y, 8);
    for (int i = 4; i; i >>= 1) x += __shfl_xor_sync(~0u, x, i);
    return x;
}
INLINE float warp_max(float x) {  // on integers of the same order, which have one instruction for it
    int i = __float_as_int(x), m;
    i ^= (i >> 31) & 0x7fffffff;
    asm volatile("redux.sync.max.s32 %0, %1, 0xffffffff;" : "=r"(m) : "r"(i));
    return __int_as_float(m ^ ((m >> 31) & 0x7fffffff));
}

// The exchange. Relaxed, at GPU scope: the L2 cache, which all multiprocessors share. A word is read whole or not at
// all.
INLINE void put(u32 *slot, u32 word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(slot), "r"(word) : "memory");
}
INLINE void put(Tagged *slot, float value, u32 tag) {
    u64 word = (u64)tag << 32 | __float_as_uint(value);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(slot), "l"(word) : "memory");
}
INLINE u32 get(const u32 *slot, u32 tag) {
    u32 word;
    do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(slot) : "memory");
    while (word >> 16 != tag);
    return word;
}
INLINE uint2 get2(const u32 *slot, u32 tag) {
    uint2 w;
    do asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(w.x), "=r"(w.y) : "l"(slot) : "memory");
    while (w.x >> 16 != tag || w.y >> 16 != tag);
    return w;
}
INLINE uint4 get4(const u32 *slot, u32 tag) {
    uint4 w;
    do asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                    : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w) : "l"(slot) : "memory");
    while (w.x >> 16 != tag || w.y >> 16 != tag || w.z >> 16 != tag || w.w >> 16 != tag);
    return w;
}
// N pairs, from `slot` on and STRIDE pairs apart; only the first `count` exist. All loads are issued before the first
// is checked.
template <int N, int STRIDE>
INLINE void get(float (*values)[2], const Tagged *slot, int count, u32 tag) {
    uint4 w[N];
    bool all;
    do {
        all = true;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count)
                asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                             : "=r"(w[i].x), "=r"(w[i].y), "=r"(w[i].z), "=r"(w[i].w)
                             : "l"(slot + 2 * STRIDE * i) : "memory");
#pragma unroll
        for (int i = 0; i < N; i++) all &= i >= count || (w[i].y == tag && w[i].w == tag);
    } while (!all);
#pragma unroll
    for (int i = 0; i < N; i++) {
        values[i][0] = __uint_as_float(w[i].x);
        values[i][1] = __uint_as_float(w[i].z);
    }
}

INLINE float mask(const unsigned char *bits, int i) { return bits[i / 8] >> (7 - i % 8) & 1 ? 1 / PRENET_KEEP : 0.f; }
INLINE u32 pair(u32 first, u32 second) { return __byte_perm(first, second, 0x5410); }  // two lower halves as one word

// The product of four received values and the four weights in two words.
INLINE float dot(uint4 w, const u32 *weights) {
    return low(w.x) * low(weights[0]) + low(w.y) * high(weights[0]) + low(w.z) * low(weights[1]) +
           low(w.w) * high(weights[1]);
}

// Adds a tile's product to sums: 16 rows by 16 columns of weights, and a vector that all eight columns of B hold.
INLINE void multiply(float *sums, uint4 a, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
// Likewise for TILES tiles in a row, and both halves of the rows.
template <int TILES>
INLINE void product(float (*sums)[4], const uint4 (*weights)[2], const u32 *x) {
#pragma unroll
    for (int i = 0; i < TILES; i++)
        for (int m = 0; m < 2; m++) multiply(sums[m], weights[i][m], x[2 * i], x[2 * i + 1]);
}
template <int TILES>
INLINE void product(float (*sums)[4], const uint4 *weights, const u32 *x) {  // from shared memory
#pragma unroll
    for (int i = 0; i < TILES; i++)
        for (int m = 0; m < 2; m++) multiply(sums[m], weights[(2 * i + m) * 32], x[2 * i], x[2 * i + 1]);
}

// A warp's columns of a vector in the order of `multiply`: lane l has the quarter l % 4 of 32, 64 or 128.
template <int COLUMNS>
INLINE void fragments(u32 *x, const u32 *halves, int lane) {
    const uint4 *from = (const uint4 *)halves + (lane & 3) * (COLUMNS / 32);
#pragma unroll
    for (int i = 0; i < COLUMNS / 32; i++) ((uint4 *)x)[i] = from[i];
}

struct Shared {
    uint4 decoder[WARPS][DECODER_TILES][2][32];
    float4 memory[MAX_TEXT];       // the block's four columns
    float history[2][MAX_TEXT + TAPS - 1];  // weights of the step before and their sum, zeros around
    float location[SYMBOLS][2][DIM];
    float sums[2][WARPS][ROWS];    // of the attention LSTM and of the decoder LSTM
    float4 dots[3][4][WARPS / 4];  // of the second prenet layer, of the query, of the layers after the decoder LSTM
    float masks[MAX_STEPS][2][2];  // dropout of the block's rows
    u32 stage[WARPS][64];          // a warp's latest received values
    u32 taps[(TAPS + 1) / 2][THREADS];
    float keys[SYMBOLS][DIM], v[DIM];
    float bias[2][ROWS];
};
static_assert(sizeof(Shared) == SHARED_BYTES);

INLINE int symbol_of(int lane, int i) { return 2 * lane + 64 * (i / 2) + i % 2; }  // of a lane's i-th weight

INLINE float sum(const float4 *of_warps) {
    float4 a = of_warps[0], b = of_warps[1];
    return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
}

// Adds all warps' sums to gates and runs the LSTM: lane l has row l and returns the new hidden value of unit l % UNITS.
INLINE float lstm(const float (*sums)[ROWS], float bias, float &cell, int lane) {
    float x = bias;
#pragma unroll
    for (int w = 0; w < WARPS; w++) x += sums[w][lane];
    bool candidate = lane / UNITS == 2;
    x = sigmoid(candidate ? 2.f * x : x);
    if (candidate) x = 2.f * x - 1.f;
    int unit = lane % UNITS;
    float i = __shfl_sync(~0u, x, unit), f = __shfl_sync(~0u, x, UNITS + unit);
    float g = __shfl_sync(~0u, x, 2 * UNITS + unit), o = __shfl_sync(~0u, x, 3 * UNITS + unit);
    cell = f * cell + i * g;
    return o * tanh_(cell);
}
INLINE void keep_sums(float (*out)[ROWS], const float (*sums)[4], int warp, int lane) {
    // All columns are the same: each of the four lanes that share two rows of each half stores one row.
    int q = lane & 3;
    float a = q & 1 ? sums[0][2] : sums[0][0], b = q & 1 ? sums[1][2] : sums[1][0];
    out[warp][(lane >> 2) + 8 * (q & 1) + 16 * (q >> 1)] = q >> 1 ? b : a;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode(const __grid_constant__ Weights weights,
                                                                const __grid_constant__ Launch launch) {
    extern __shared__ uint4 raw[];
    Shared &shared = *(Shared *)raw;
    const int block = blockIdx.x, thread = threadIdx.x, warp = thread >> 5, lane = thread & 31;
    const int text = launch.text, copy = block % COPIES, rounded = (text + 63) / 64 * 64;
    const int symbols = (rounded + BLOCKS - 1 - block) / BLOCKS;  // block, block + BLOCKS, ...
    Exchange &exchange = *launch.exchange;

    // The weights
    const uint4 *from = weights.decoder + (size_t)block * WARPS * DECODER_TILES * 64;
    for (int i = thread; i < WARPS * DECODER_TILES * 64; i += THREADS)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         (u32)__cvta_generic_to_shared((uint4 *)shared.decoder + i)), "l"(from + i) : "memory");
    uint4 attention[ATTENTION_TILES][2];
    from = weights.attention + ((size_t)block * WARPS + warp) * ATTENTION_TILES * 64 + lane;
#pragma unroll
    for (int i = 0; i < ATTENTION_TILES; i++)
        for (int m = 0; m < 2; m++) attention[i][m] = __ldg(from + (2 * i + m) * 32);
    u32 small[SMALL];  // 0-8: three rows, of four hidden values and two of the context; 9: two rows; 10, 11: the query
    for (int i = 0; i < SMALL / 4; i++)
        ((uint4 *)small)[i] = __ldg(weights.small + ((size_t)block * THREADS + thread) * (SMALL / 4) + i);
    const int dim = thread % DIM, which = thread / DIM;  // of the location layer: taps of the weights or of the sums
    for (int i = 0; i < (TAPS + 1) / 2; i++) {
        const u16 *tap = weights.location + (which * TAPS + 2 * i) * DIM + dim;
        shared.taps[i][thread] = tap[0] | (2 * i + 1 < TAPS ? (u32)tap[DIM] << 16 : 0);
    }

    // The state
    if (warp == 0) {
        shared.bias[0][lane] = weights.attention_bias[block * ROWS + lane];
        shared.bias[1][lane] = weights.decoder_bias[block * ROWS + lane];
    }
    const int unit = block * UNITS + lane % UNITS;
    float attention_cell = to_float(launch.attention_cell[unit]), decoder_cell = to_float(launch.decoder_cell[unit]);
    u32 hidden[16], old_hidden[16], context[8];  // of the attention LSTM, of the decoder LSTM
    fragments<128>(hidden, (const u32 *)launch.attention_hidden + warp * 64, lane);
    fragments<128>(old_hidden, (const u32 *)launch.decoder_hidden + warp * 64, lane);
    fragments<64>(context, (const u32 *)launch.context + warp * 32, lane);
    for (int t = thread; t < MAX_TEXT + TAPS - 1; t += THREADS) {
        int s = t - TAPS / 2;
        bool inside = s >= 0 && s < text;
        shared.history[0][t] = inside ? to_float(launch.alignment[s]) : 0.f;
        shared.history[1][t] = inside ? to_float(launch.sums[s]) : 0.f;
    }
    for (int i = thread; i < 4 * MAX_TEXT; i += THREADS)
        ((float *)shared.memory)[i] =
            i >> 2 < text ? to_float(launch.memory[(i >> 2) * MEMORY + block * 4 + (i & 3)]) : 0.f;
    bool padded = true;  // the warp's symbol, if it has one
    if (warp < symbols) {
        int symbol = block + warp * BLOCKS;
        padded = symbol >= text || launch.padding[symbol];
        for (int i = lane; i < DIM; i += 32)
            shared.keys[warp][i] = padded ? 0.f : to_float(launch.processed_memory[symbol * DIM + i]);
    }
    if (thread < DIM) shared.v[thread] = weights.v[thread];
    for (int i = thread; i < 4 * launch.steps; i += THREADS)
        ((float *)shared.masks)[i] = mask(launch.kept[i / 4][i / 2 % 2], 2 * block + i % 2);
    u32 tag = exchange.step;

    // The first step's first layer of the prenet, from the frame before
    if (warp < 2) {
        float x = 0.f;
        for (int i = lane; i < MELS; i += 32)
            x += to_float(weights.prenet[(2 * block + warp) * MELS + i]) * to_float(launch.frame[i]);
        x = fmaxf(warp_sum(x), 0.f) * mask(launch.kept[0][0], 2 * block + warp);
        if (lane < COPIES) put(&exchange.prenet1[lane][2 * block + warp], (tag & 0xffff) << 16 | to_half(x));
    }
    const float small_bias = thread < 3 * COPIES ? weights.small_bias[block * 3 + thread / COPIES] : 0.f;
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    const uint4 *decoder = &shared.decoder[warp][0][0][lane];
    u32 *stage = shared.stage[warp];

    for (int step = 0; step < launch.steps; step++, tag++) {
        const u32 upper = tag << 16, short_tag = tag & 0xffff;
        float decoder_sums[2][4] = {};
        product<8>(decoder_sums, decoder + 12 * 64, old_hidden);

        // The prenet's second layer
        {
            float x = low(get(&exchange.prenet1[copy][thread], short_tag));
            x = warp_sum(x * low(small[9]), x * high(small[9]), lane);
            if (lane % 16 == 0) ((float *)shared.dots[0][lane / 16])[warp] = x;
        }
        __syncthreads();
        if (thread < 2 * COPIES) {
            int row = thread / COPIES;
            float x = fmaxf(sum(shared.dots[0][row]), 0.f) * shared.masks[step][1][row];
            put(&exchange.prenet2[thread % COPIES][2 * block + row], upper | to_half(x));
        }
        __syncthreads();

        float attention_sums[2][4] = {};
        product<4>(attention_sums, attention + 2, context);
        product<8>(attention_sums, attention + 6, hidden);

        // Attention LSTM
        {
            u32 word = get(&exchange.prenet2[copy][warp * 32 + lane], short_tag);
            ((u16 *)stage)[lane] = (u16)word;
            __syncwarp();
            u32 x[4];
            fragments<32>(x, stage, lane);
            product<2>(attention_sums, attention, x);
            keep_sums(shared.sums[0], attention_sums, warp, lane);
        }
        __syncthreads();
        if (warp == 0) {
            float h = lstm(shared.sums[0], shared.bias[0][lane], attention_cell, lane);
            put(&exchange.attention[lane / UNITS][unit], upper | to_half(h));
        }
        __syncthreads();

        // The location layer needs only the last step's results.
        for (int s = 0; s < symbols; s++) {
            const float *past = shared.history[which] + block + s * BLOCKS;
            float x = 0.f;
#pragma unroll
            for (int i = 0; i < TAPS; i++) {
                u32 two = shared.taps[i / 2][thread];
                x += past[i] * (i & 1 ? high(two) : low(two));
            }
            shared.location[s][which][dim] = x;
        }

        // Query
        {
            uint4 w = get4(&exchange.attention[copy][thread * 4], short_tag);
            *(uint2 *)(stage + lane * 2) = make_uint2(pair(w.x, w.y), pair(w.z, w.w));
            float x = warp_sum(dot(w, small + 10));
            if (lane == 0) ((float *)shared.dots[1][0])[warp] = x;
        }
        __syncthreads();
        if (thread < COPIES) put(&exchange.query[thread][block], sum(shared.dots[1][0]), tag);
        __syncthreads();
        fragments<128>(hidden, stage, lane);
        product<8>(decoder_sums, decoder, hidden);

        // Energies
        if (warp < symbols) {
            float sum[4], query[2][2], x = 0.f;
            for (int i = 0; i < 4; i++) {
                int a = lane * 4 + i;
                sum[i] = shared.location[warp][0][a] + shared.location[warp][1][a] + shared.keys[warp][a];
            }
            get<2, 1>(query, &exchange.query[copy][lane * 4], 2, tag);
            for (int i = 0; i < 4; i++) x += shared.v[lane * 4 + i] * tanh_(query[i / 2][i % 2] + sum[i]);
            x = padded ? -INFINITE : warp_sum(x);
            if (lane < COPIES) put(&exchange.energies[lane][block + warp * BLOCKS], x, tag);
        }
        // Context: the block's four columns
        if (warp == 0) {
            const int N = MAX_TEXT / 64;
            float e[N][2], top = -INFINITE, total = 0.f, x[4] = {};
            // Lane l has the symbols 2 l, 2 l + 1, and those 64 further on each.
            get<N, 32>(e, &exchange.energies[copy][2 * lane], rounded / 64, tag);
#pragma unroll
            for (int i = 0; i < 2 * N; i++) {
                if (i / 2 >= rounded / 64) e[i / 2][i % 2] = -INFINITE;
                top = fmaxf(top, e[i / 2][i % 2]);
            }
            top = warp_max(top);
#pragma unroll
            for (int i = 0; i < 2 * N; i++) {
                float &weight = e[i / 2][i % 2];
                weight = exp2_(1.4426950408889634f * (weight - top));
                total += weight;
                float4 memory = shared.memory[symbol_of(lane, i)];
                x[0] += weight * memory.x, x[1] += weight * memory.y, x[2] += weight * memory.z;
                x[3] += weight * memory.w;
            }
            float scale = __fdividef(1.f, warp_sum(total));
            float column = warp_sum(x[0], x[1], x[2], x[3], lane);  // lane l has column l / 8
            if (lane % 8 < COPIES)
                put(&exchange.context[lane % 8][block * 4 + lane / 8], upper | to_half(column * scale));
#pragma unroll
            for (int i = 0; i < 2 * N; i++) {
                int t = symbol_of(lane, i);
                if (t >= text) continue;
                float weight = e[i / 2][i % 2] * scale;
                shared.history[0][TAPS / 2 + t] = weight;
                shared.history[1][TAPS / 2 + t] += weight;
                if (block == 0 && launch.alignments) launch.alignments[step * text + t] = (u16)to_half(weight);
            }
        }
        __syncthreads();

        // Decoder LSTM
        uint2 own_context = get2(&exchange.context[copy][thread * 2], short_tag);
        stage[lane] = pair(own_context.x, own_context.y);
        __syncwarp();
        fragments<64>(context, stage, lane);
        product<4>(decoder_sums, decoder + 8 * 64, context);
        keep_sums(shared.sums[1], decoder_sums, warp, lane);
        __syncthreads();
        if (warp == 0) {
            float h = lstm(shared.sums[1], shared.bias[1][lane], decoder_cell, lane);
            put(&exchange.decoder[lane / UNITS][unit], upper | to_half(h));
        }

        // The frame, and the prenet's first layer of the next step
        {
            float y[3];
            for (int i = 0; i < 3; i++)
                y[i] = low(own_context.x) * low(small[3 * i + 2]) + low(own_context.y) * high(small[3 * i + 2]);
            uint4 w = get4(&exchange.decoder[copy][thread * 4], short_tag);
            *(uint2 *)(stage + lane * 2) = make_uint2(pair(w.x, w.y), pair(w.z, w.w));
            for (int i = 0; i < 3; i++) y[i] += dot(w, small + 3 * i);
            float x = warp_sum(y[0], y[1], y[2], 0.f, lane);
            if (lane % 8 == 0) ((float *)shared.dots[2][lane / 8])[warp] = x;
        }
        __syncthreads();
        if (thread < 3 * COPIES) {
            int row = thread / COPIES, to = thread % COPIES;
            float x = sum(shared.dots[2][row]) + small_bias;
            if (row < 2) {
                if (step + 1 < launch.steps) {
                    x = fmaxf(x, 0.f) * shared.masks[step + 1][0][row];
                    put(&exchange.prenet1[to][2 * block + row], (tag + 1) << 16 | to_half(x));
                }
            } else if (to == 0 && block < MELS) {
                launch.frames[step * MELS + block] = (u16)to_half(x);
                if (step + 1 == launch.steps) launch.frame[block] = (u16)to_half(x);
            } else if (to == 0 && block == MELS)
                launch.gates[step] = (u16)to_half(x);
        }
        __syncthreads();
        fragments<128>(old_hidden, stage, lane);
        __syncwarp();
    }

    // The state, for the next launch
    if (warp == 0 && lane < UNITS) {
        u32 last = (tag - 1) & 0xffff;
        launch.attention_hidden[unit] = (u16)get(&exchange.attention[copy][unit], last);
        launch.decoder_hidden[unit] = (u16)get(&exchange.decoder[copy][unit], last);
        launch.attention_cell[unit] = (u16)to_half(attention_cell);
        launch.decoder_cell[unit] = (u16)to_half(decoder_cell);
        if (lane < 4) launch.context[block * 4 + lane] = (u16)get(&exchange.context[copy][block * 4 + lane], last);
    }
    if (block == 0) {
        for (int t = thread; t < text; t += THREADS) {
            launch.alignment[t] = (u16)to_half(shared.history[0][TAPS / 2 + t]);
            launch.sums[t] = (u16)to_half(shared.history[1][TAPS / 2 + t]);
        }
        if (thread == 0) exchange.step = tag;
    }
}
