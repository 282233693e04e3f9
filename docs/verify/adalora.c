/* AdaLoRA in C99, with libc and libm alone, as a program that `adalora-ref verify "exec:./adalora"` can check:

       cc -std=c99 -O2 -o adalora adalora.c -lm

   It speaks protocol 1 (program.md) and knows the stages in `STAGES` (stages.md), in float64 and float32. All numbers
   are held and computed as doubles; a float32 result is rounded once, when it is written. A machine that stores the
   lowest byte first is taken for granted. Compiled with -DMISTAKE, it makes one that the kit finds and names. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *why) {
    fprintf(stderr, "adalora: %s\n", why);
    exit(1);
}

/* MEMORY: what one case takes is given back together. */

typedef union Block { union Block *next; double aligned; } Block;
static Block *taken;

static void *take(size_t count, size_t size) {
    Block *block = calloc(1, sizeof(Block) + count * size + 1);
    if (!block) die("out of memory");
    block->next = taken;
    taken = block;
    return block + 1;
}

static void give_back(void) {
    while (taken) {
        Block *next = taken->next;
        free(taken);
        taken = next;
    }
}

static double *doubles(long count) { return take((size_t)count, sizeof(double)); }

/* JSON: a value has a kind, n t f 0 " [ or {, and the members of a list or object as a chain. */

typedef struct Value {
    char kind;
    double number;
    char *text;
    char *key; /* if it is a member of an object */
    struct Value *first, *next;
} Value;

static const char *at; /* where the reader is */

static char skip(void) {
    while (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r') at++;
    return *at;
}

static void expect(char c) {
    if (skip() != c) die("this is no JSON");
    at++;
}

static char *utf8(char *to, unsigned long c) {
    if (c < 0x80) return *to++ = (char)c, to;
    if (c < 0x800) *to++ = (char)(0xC0 | c >> 6);
    else *to++ = (char)(0xE0 | c >> 12), *to++ = (char)(0x80 | (c >> 6 & 0x3F));
    return *to++ = (char)(0x80 | (c & 0x3F)), to;
}

static char *string(void) {
    expect('"');
    const char *end = at;
    while (*end && *end != '"') end += *end == '\\' && end[1] ? 2 : 1;
    char *text = take((size_t)(end - at), 1), *to = text;
    while (at < end) {
        static const char escapes[] = "n\nt\tr\rb\bf\f";
        if (*at != '\\') *to++ = *at++;
        else if (at[1] == 'u') {
            char digits[5] = {0};
            to = utf8(to, strtoul(strncpy(digits, at + 2, 4), NULL, 16));
            at += 6;
        } else {
            const char *found = strchr(escapes, at[1]);
            *to++ = found ? found[1] : at[1];
            at += 2;
        }
    }
    expect('"');
    return text;
}

static Value *value(void) {
    Value *v = take(1, sizeof(Value)), **last = &v->first;
    v->kind = skip();
    if (v->kind == '"') v->text = string();
    else if (v->kind == '{' || v->kind == '[') {
        char close = v->kind == '{' ? '}' : ']';
        for (at++; skip() != close; last = &(*last)->next) {
            char *key = NULL;
            if (v->first) expect(',');
            if (v->kind == '{') key = (skip(), string()), expect(':');
            *last = value();
            (*last)->key = key;
        }
        at++;
    } else if (v->kind == 'n' || v->kind == 't' || v->kind == 'f') at += v->kind == 'f' ? 5 : 4;
    else {
        char *end;
        v->kind = '0';
        v->number = strtod(at, &end);
        if (end == at) die("this is no JSON");
        at = end;
    }
    return v;
}

static Value *parse(const char *text) {
    at = text;
    return value();
}

static Value *find(Value *object, const char *key) { /* NULL where there is none, or null */
    Value *v = object ? object->first : NULL;
    while (v && !(v->key && !strcmp(v->key, key))) v = v->next;
    return v && v->kind != 'n' ? v : NULL;
}

static Value *get(Value *object, const char *key) {
    Value *v = find(object, key);
    if (!v) die(key);
    return v;
}

/* TENSORS: doubles with a name, a shape and the dtype that they have in a file. */

typedef struct Tensor {
    const char *name, *dtype;
    long rank, shape[8], size;
    double *x;
    struct Tensor *next;
} Tensor;

static struct { Value *header; char *body; Tensor *results; const char *dtype; } held; /* of the case at hand */

static size_t bytes_of(const char *dtype) {
    return !strcmp(dtype, "F64") || !strcmp(dtype, "I64") ? 8 : !strcmp(dtype, "F32") ? 4 : 1;
}

static void open_tensors(const char *path) {
    FILE *file = fopen(path, "rb");
    unsigned char length[8];
    uint64_t n = 0;
    if (!file || fread(length, 1, 8, file) != 8) die("the tensors cannot be read");
    for (int i = 8; i--;) n = n << 8 | length[i];
    char *header = take((size_t)n, 1);
    if (fread(header, 1, (size_t)n, file) != n) die("the tensors are cut off");
    long begin = ftell(file);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)(ftell(file) - begin);
    held.body = take(size, 1);
    fseek(file, begin, SEEK_SET);
    if (fread(held.body, 1, size, file) != size) die("the tensors are cut off");
    fclose(file);
    held.header = parse(header);
}

static Tensor *tensor(Value *argument) {
    Tensor *t = take(1, sizeof(Tensor));
    Value *entry = get(held.header, get(argument, "tensor")->text);
    const char *from = held.body + (size_t)get(entry, "data_offsets")->first->number;
    t->dtype = get(entry, "dtype")->text;
    t->size = 1;
    for (Value *v = get(entry, "shape")->first; v; v = v->next) {
        if (t->rank == 8) die("a tensor has too many axes");
        t->shape[t->rank++] = (long)v->number, t->size *= (long)v->number;
    }
    t->x = doubles(t->size);
    for (long i = 0; i < t->size; i++) {
        float single;
        if (!strcmp(t->dtype, "F64")) memcpy(&t->x[i], from + 8 * i, 8);
        else if (!strcmp(t->dtype, "F32")) memcpy(&single, from + 4 * i, 4), t->x[i] = single;
        else if (!strcmp(t->dtype, "BOOL")) t->x[i] = from[i];
        else die("a tensor has a dtype that this program does not know");
    }
    return t;
}

/* A new result, all zeros. */
static Tensor *result(const char *name, const char *dtype, long rank, const long *shape) {
    Tensor *t = take(1, sizeof(Tensor));
    t->name = name, t->dtype = dtype, t->rank = rank, t->size = 1;
    for (long i = 0; i < rank; i++) t->size *= t->shape[i] = shape[i];
    t->x = doubles(t->size);
    t->next = held.results;
    return held.results = t;
}

static void write_results(const char *path) {
    size_t room = 3, begin = 0;
    for (Tensor *t = held.results; t; t = t->next) room += strlen(t->name) + 300;
    char *header = take(room, 1), *to = header;
    for (Tensor *t = held.results; t; t = t->next) {
        to += sprintf(to, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", to == header ? '{' : ',', t->name, t->dtype);
        for (long i = 0; i < t->rank; i++) to += sprintf(to, "%s%ld", i ? "," : "", t->shape[i]);
        size_t end = begin + (size_t)t->size * bytes_of(t->dtype);
        to += sprintf(to, "],\"data_offsets\":[%lu,%lu]}", (unsigned long)begin, (unsigned long)end);
        begin = end;
    }
    *to++ = '}';
    FILE *file = fopen(path, "wb");
    uint64_t n = (uint64_t)(to - header);
    if (!file) die("the results cannot be written");
    fwrite(&n, 8, 1, file);
    fwrite(header, 1, (size_t)n, file);
    for (Tensor *t = held.results; t; t = t->next)
        for (long i = 0; i < t->size; i++) {
            float single = (float)t->x[i];
            int64_t whole = (int64_t)t->x[i];
            char flag = t->x[i] != 0;
            if (!strcmp(t->dtype, "F64")) fwrite(&t->x[i], 8, 1, file);
            else if (!strcmp(t->dtype, "F32")) fwrite(&single, 4, 1, file);
            else if (!strcmp(t->dtype, "I64")) fwrite(&whole, 8, 1, file);
            else fwrite(&flag, 1, 1, file);
        }
    if (fclose(file)) die("the results cannot be written");
}

/* FACTORS: B (d_out, r), s (r,), A (r, d_in). */

typedef struct { Tensor *B, *s, *A; long d_out, d_in, r; } Factors;

static Factors factors(Value *argument) {
    Factors f = {tensor(get(argument, "B")), tensor(get(argument, "s")), tensor(get(argument, "A")), 0, 0, 0};
    f.d_out = f.B->shape[0], f.r = f.s->shape[0], f.d_in = f.A->shape[1];
    return f;
}

/* New factors of the same sizes, all zeros; their names begin with *name*. */
static Factors factors_like(Factors f, const char *name) {
    char *names[3];
    for (int i = 0; i < 3; i++) names[i] = take(strlen(name) + 3, 1), sprintf(names[i], "%s.%c", name, "BsA"[i]);
    f.B = result(names[0], held.dtype, 2, f.B->shape);
    f.s = result(names[1], held.dtype, 1, f.s->shape);
    f.A = result(names[2], held.dtype, 2, f.A->shape);
    return f;
}

/* THE LAYER */

typedef struct { double *x, *W, *B, *s, *A, *u, *mask, scale; long n, d_out, d_in, r; Tensor *input; } Layer;

/* u = (x ⊙ M) Aᵀ, and everything that both passes need. */
static Layer layer(Value *a) {
    Tensor *x = tensor(get(a, "x")), *W = tensor(get(a, "W"));
    Factors f = factors(get(a, "factors"));
    Value *mask = find(a, "dropout_mask");
    Layer l = {x->x, W->x, f.B->x, f.s->x, f.A->x, NULL, NULL, get(a, "scale")->number, 0, f.d_out, f.d_in, f.r, x};
    l.n = x->size / l.d_in;
    l.mask = mask ? tensor(mask)->x : NULL;
    l.u = doubles(l.n * l.r);
    for (long n = 0; n < l.n; n++)
        for (long k = 0; k < l.r; k++)
            for (long i = 0; i < l.d_in; i++)
                l.u[n * l.r + k] += l.x[n * l.d_in + i] * (l.mask ? l.mask[n * l.d_in + i] : 1) * l.A[k * l.d_in + i];
    return l;
}

static void linear_forward(Value *a) {
    Layer l = layer(a);
    Value *bias = find(a, "bias");
    double *b = bias ? tensor(bias)->x : NULL;
    long shape[8];
    memcpy(shape, l.input->shape, sizeof shape);
    shape[l.input->rank - 1] = l.d_out;
    double *y = result("y", held.dtype, l.input->rank, shape)->x;
    for (long n = 0; n < l.n; n++)
        for (long j = 0; j < l.d_out; j++) {
            double sum = b ? b[j] : 0, adapter = 0;
            for (long i = 0; i < l.d_in; i++) sum += l.x[n * l.d_in + i] * l.W[j * l.d_in + i];
            for (long k = 0; k < l.r; k++) adapter += l.u[n * l.r + k] * l.s[k] * l.B[j * l.r + k];
            y[n * l.d_out + j] = sum + l.scale * adapter;
        }
}

static void linear_backward(Value *a) {
    Layer l = layer(a);
    Factors d = factors_like(factors(get(a, "factors")), "d");
    double *dx = result("dx", held.dtype, l.input->rank, l.input->shape)->x, *dy = tensor(get(a, "dy"))->x;
    for (long n = 0; n < l.n; n++) {
        double *x = l.x + n * l.d_in, *mask = l.mask ? l.mask + n * l.d_in : NULL, *dy_n = dy + n * l.d_out;
        for (long i = 0; i < l.d_in; i++)
            for (long j = 0; j < l.d_out; j++) dx[n * l.d_in + i] += dy_n[j] * l.W[j * l.d_in + i];
        for (long k = 0; k < l.r; k++) {
            double u = l.u[n * l.r + k], dz = 0;
            for (long j = 0; j < l.d_out; j++) {
                dz += l.scale * dy_n[j] * l.B[j * l.r + k];
                d.B->x[j * l.r + k] += l.scale * dy_n[j] * u * l.s[k];
            }
            d.s->x[k] += dz * u;
            for (long i = 0; i < l.d_in; i++) {
                double m = mask ? mask[i] : 1;
                d.A->x[k * l.d_in + i] += dz * l.s[k] * x[i] * m;
                dx[n * l.d_in + i] += dz * l.s[k] * l.A[k * l.d_in + i] * m;
            }
        }
    }
}

/* W + sign · scale · B diag(s) A; without W the increment alone. */
static void weight(Value *a, const char *name, int with_W, double sign) {
    Tensor *W = tensor(get(a, "W"));
    Factors f = factors(get(a, "factors"));
    double scale = sign * get(a, "scale")->number, *to = result(name, held.dtype, 2, W->shape)->x;
    for (long j = 0; j < f.d_out; j++)
        for (long i = 0; i < f.d_in; i++) {
            double sum = 0;
            for (long k = 0; k < f.r; k++) sum += f.B->x[j * f.r + k] * f.s->x[k] * f.A->x[k * f.d_in + i];
            to[j * f.d_in + i] = (with_W ? W->x[j * f.d_in + i] : 0) + scale * sum;
        }
}

static void increment(Value *a) { weight(a, "ΔW", 0, 1); }
static void merge(Value *a) { weight(a, "W", 1, 1); }
static void unmerge(Value *a) { weight(a, "W", 1, -1); }

/* THE PENALTY */

/* ‖X Xᵀ − I‖² of r rows of length n, entry i of row k at x[k·row + i·step]; its gradient is added to dx. */
static double defect(const double *x, double *dx, long r, long n, long row, long step) {
    double sum = 0;
    for (long k = 0; k < r; k++)
        for (long l = 0; l < r; l++) {
            double z = k == l ? -1 : 0;
            for (long i = 0; i < n; i++) z += x[k * row + i * step] * x[l * row + i * step];
            for (long i = 0; i < n; i++) dx[k * row + i * step] += 4 * z * x[l * row + i * step];
            sum += z * z;
        }
    return sum;
}

static void orthogonality_penalty(Value *a) {
    Factors f = factors(get(a, "factors")), d = factors_like(f, "d");
    double *R = result("R", held.dtype, 0, NULL)->x;
    *R = defect(f.B->x, d.B->x, f.r, f.d_out, 1, f.r) + defect(f.A->x, d.A->x, f.r, f.d_in, f.d_in, 1);
}

/* IMPORTANCE */

static void update_importance(Value *a) {
    static const char *parts[] = {"B", "s", "A"};
    Value *state = get(a, "state");
    Factors mean = factors_like(factors(get(state, "sensitivity")), "state.sensitivity");
    Factors spread = factors_like(factors(get(state, "uncertainty")), "state.uncertainty");
    Tensor *means[] = {mean.B, mean.s, mean.A}, *spreads[] = {spread.B, spread.s, spread.A};
    double beta1 = get(a, "beta1")->number, beta2 = get(a, "beta2")->number;
    for (int p = 0; p < 3; p++) {
        double *old_mean = tensor(get(get(state, "sensitivity"), parts[p]))->x;
        double *old_spread = tensor(get(get(state, "uncertainty"), parts[p]))->x;
        double *w = tensor(get(get(a, "weights"), parts[p]))->x, *g = tensor(get(get(a, "grads"), parts[p]))->x;
        for (long i = 0; i < means[p]->size; i++) {
            double now = fabs(w[i] * g[i]), new_mean = beta1 * old_mean[i] + (1 - beta1) * now;
#ifdef MISTAKE
            double about = old_mean[i];
#else
            double about = new_mean;
#endif
            means[p]->x[i] = new_mean;
            spreads[p]->x[i] = beta2 * old_spread[i] + (1 - beta2) * fabs(now - about);
        }
    }
}

static void triplet_scores(Value *a) {
    Factors I = factors(get(get(a, "state"), "sensitivity")), U = factors(get(get(a, "state"), "uncertainty"));
    double *S = result("S", held.dtype, 1, I.s->shape)->x;
    for (long k = 0; k < I.r; k++) {
        double in_B = 0, in_A = 0;
        for (long j = 0; j < I.d_out; j++) in_B += I.B->x[j * I.r + k] * U.B->x[j * I.r + k];
        for (long i = 0; i < I.d_in; i++) in_A += I.A->x[k * I.d_in + i] * U.A->x[k * I.d_in + i];
        S[k] = I.s->x[k] * U.s->x[k] + in_B / (double)I.d_out + in_A / (double)I.d_in;
    }
}

/* THE BUDGET: integers, and no division but the last. It fits where (b⁰ − b^T) · (T − t_i − t_f)³ is below 2⁶³. */

static void budget_at(Value *a) {
    Value *schedule = get(a, "schedule");
    int64_t initial = (int64_t)get(schedule, "initial")->number, target = (int64_t)get(schedule, "target")->number;
    int64_t warmup = (int64_t)get(schedule, "warmup")->number;
    int64_t end = (int64_t)(get(schedule, "total")->number - get(schedule, "final")->number), window = end - warmup;
    long count = 0, i = 0;
    for (Value *step = get(a, "steps")->first; step; step = step->next) count++;
    double *b = result("b", "I64", 1, &count)->x;
    for (Value *step = get(a, "steps")->first; step; step = step->next, i++) {
        int64_t left = end - (int64_t)step->number;
        if (left >= window) b[i] = (double)initial;
        else if (left <= 0) b[i] = (double)target;
        else b[i] = (double)(target + (initial - target) * left * left * left / (window * window * window));
    }
}

/* THE ALLOCATION */

typedef struct { double score, cost, *keep; long matrix, index; } Triplet;

static int better(const void *left, const void *right) {
    const Triplet *p = left, *q = right;
    if (p->score != q->score) return p->score > q->score ? -1 : 1;
    if (p->matrix != q->matrix) return p->matrix < q->matrix ? -1 : 1;
    return p->index < q->index ? -1 : p->index > q->index;
}

static void allocate(Value *a) {
    Value *cost = find(a, "cost");
    double left = get(a, "budget")->number;
    long whole = 0, count = 0, matrix = 0;
    for (Value *v = get(a, "scores")->first; v; v = v->next) whole += tensor(v)->size;
    Triplet *all = take((size_t)whole, sizeof(Triplet));
    for (Value *v = get(a, "scores")->first; v; v = v->next, matrix++) {
        Tensor *scores = tensor(v);
        char *name = take(strlen(v->key) + 7, 1);
        sprintf(name, "keep[%s]", v->key);
        double *keep = result(name, "BOOL", 1, scores->shape)->x;
        for (long k = 0; k < scores->size; k++) {
            Triplet t = {scores->x[k], cost ? get(cost, v->key)->number : 1, keep + k, matrix, k};
            all[count++] = t;
        }
    }
    qsort(all, (size_t)whole, sizeof(Triplet), better);
    for (long i = 0; i < whole && (left -= all[i].cost) >= 0; i++) *all[i].keep = 1;
}

static void prune(Value *a) {
    Factors f = factors(get(a, "factors")), to = factors_like(f, "factors");
    double *keep = tensor(get(a, "keep"))->x;
    memcpy(to.B->x, f.B->x, (size_t)f.B->size * sizeof(double));
    memcpy(to.A->x, f.A->x, (size_t)f.A->size * sizeof(double));
    for (long k = 0; k < f.r; k++) to.s->x[k] = keep[k] != 0 ? f.s->x[k] : 0;
}

/* THE PROTOCOL */

static const struct { const char *name; void (*run)(Value *); int differs; } STAGES[] = {
    {"linear_forward", linear_forward, 0}, {"linear_backward", linear_backward, 0}, {"increment", increment, 0},
    {"merge", merge, 0}, {"unmerge", unmerge, 0}, {"orthogonality_penalty", orthogonality_penalty, 0},
    {"update_importance", update_importance, 0}, {"triplet_scores", triplet_scores, 0},
    {"budget_at", budget_at, 1}, {"allocate", allocate, 1}, {"prune", prune, 0},
}; /* differs: from convention to convention */
enum { KNOWN = sizeof STAGES / sizeof *STAGES };

static char *read_line(void) { /* NULL at the end */
    size_t room = 1 << 12, length = 0;
    char *line = take(room, 1);
    while (fgets(line + length, (int)(room - length), stdin)) {
        length += strlen(line + length);
        if (line[length - 1] == '\n') return line;
        char *longer = take(room *= 2, 1);
        line = memcpy(longer, line, length);
    }
    return NULL;
}

static void greet(void) {
    char *line = read_line();
    if (!line || get(parse(line), "protocol")->number != 1) die("the kit must speak protocol 1");
    printf("{\"protocol\": 1, \"name\": \"adalora.c\", \"dtypes\": [\"float64\", \"float32\"], \"stages\": [");
    for (int i = 0; i < KNOWN; i++) printf("%s\"%s\"", i ? ", " : "", STAGES[i].name);
    printf("]}\n");
}

static void answer(Value *request) {
    Value *task = get(request, "case");
    long id = (long)get(request, "id")->number;
    int i = 0;
    while (i < KNOWN && strcmp(STAGES[i].name, get(task, "stage")->text)) i++;
    if (i == KNOWN) die("this stage was not promised");
    if (STAGES[i].differs && strcmp(get(task, "convention")->text, "SPEC")) {
        printf("{\"id\": %ld, \"refused\": \"adalora.c follows SPEC alone\"}\n", id);
        return;
    }
    held.dtype = strcmp(get(task, "dtype")->text, "float64") ? "F32" : "F64";
    held.results = NULL;
    open_tensors(get(request, "tensors")->text);
    STAGES[i].run(get(task, "arguments"));
    write_results(get(request, "results")->text);
    printf("{\"id\": %ld, \"ok\": true}\n", id);
}

int main(void) {
    char *line;
    greet();
    for (fflush(stdout); (line = read_line()); fflush(stdout)) {
        answer(parse(line));
        give_back();
    }
    return 0;
}
