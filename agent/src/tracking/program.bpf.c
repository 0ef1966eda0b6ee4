// Marks the grains of one disk that are written. Loaded once for each disk; the constants are
// filled in by whoever loads it: where a tracepoint's fields stand is told by tracefs, so that
// one object serves many kernels.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline

enum {
    BPF_MAP_TYPE_ARRAY = 2,
    BPF_F_MMAPABLE = 1024,
};

// bpf-helpers(7).
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

// The disk's device number, as the kernel has it: major << 20 | minor.
volatile const u32 DEVICE = 0;
// How many words of 64 grains it has.
volatile const u32 WORDS = 1;
// A grain is 1 << GRAIN_SHIFT sectors of 512 bytes.
volatile const u32 GRAIN_SHIFT = 7;
// Where the fields of block:block_rq_issue and block:block_rq_complete stand.
volatile const u32 ISSUE_DEVICE = 0;
volatile const u32 ISSUE_SECTOR = 0;
volatile const u32 ISSUE_COUNT = 0;
volatile const u32 ISSUE_KIND = 0;
volatile const u32 COMPLETE_DEVICE = 0;
volatile const u32 COMPLETE_SECTOR = 0;
volatile const u32 COMPLETE_COUNT = 0;
volatile const u32 COMPLETE_KIND = 0;

#define MAP(name, type_, entries)          \
    struct {                               \
        int (*type)[type_];                \
        u32 *key;                          \
        u64 *value;                        \
        int (*max_entries)[entries];       \
        int (*map_flags)[BPF_F_MMAPABLE];  \
    } name SECTION(".maps")

// One bit for each grain. As many words as the disk needs.
MAP(marks, BPF_MAP_TYPE_ARRAY, 1);
// What is counted, see `probe.rs`.
MAP(counts, BPF_MAP_TYPE_ARRAY, 8);

enum {
    COUNT_SECTORS = 0,
    COUNT_TOO_LONG = 1,
};

// The longest request is below 4 GiB: so many words of 64 grains of 64 KiB, and one more where
// it does not begin with a word.
#define LONGEST 1025

INLINE void count(u32 which, u64 by)
{
    u64 *counter = map_lookup(&counts, &which);
    if (counter)
        __sync_fetch_and_add(counter, by);
}

INLINE void mark(u64 sector, u32 sectors)
{
    u64 first = sector >> GRAIN_SHIFT;
    u64 last = (sector + sectors - 1) >> GRAIN_SHIFT;
    u64 word = first >> 6;
    u64 last_word = last >> 6;

    if (last_word - word >= LONGEST)
        count(COUNT_TOO_LONG, 1);
    for (u32 i = 0; i < LONGEST; i++) {
        u32 key = word + i;
        u64 bits = ~0ull;
        u64 *at;

        if (word + i > last_word || key >= WORDS)
            break;
        if (i == 0)
            bits &= ~0ull << (first & 63);
        if (word + i == last_word)
            bits &= ~0ull >> (63 - (last & 63));
        at = map_lookup(&marks, &key);
        if (at && (*at & bits) != bits)
            __sync_fetch_and_or(at, bits);
    }
}

// What the four fields of an event say. False when it writes nothing to this disk.
INLINE int writes(void *event, u32 device_at, u32 sector_at, u32 count_at, u32 kind_at,
                  u64 *sector, u32 *sectors)
{
    u32 device = 0;
    u8 kind[2] = {};

    probe_read_kernel(&device, sizeof(device), event + device_at);
    if (device != DEVICE)
        return 0;
    probe_read_kernel(sectors, sizeof(*sectors), event + count_at);
    if (*sectors == 0)
        return 0;
    probe_read_kernel(kind, sizeof(kind), event + kind_at);
    // A flush may come before what follows it. What is not known to be a read may write:
    // writing zeros has no letter of its own.
    if (kind[0] == 'R' || (kind[0] == 'F' && kind[1] == 'R'))
        return 0;
    probe_read_kernel(sector, sizeof(*sector), event + sector_at);
    return 1;
}

// Before a request may reach the disk.
SECTION("tracepoint/block/block_rq_issue")
int issued(void *event)
{
    u64 sector = 0;
    u32 sectors = 0;

    if (writes(event, ISSUE_DEVICE, ISSUE_SECTOR, ISSUE_COUNT, ISSUE_KIND, &sector, &sectors))
        mark(sector, sectors);
    return 0;
}

// After it has: marked again, since the marks may have been taken in between.
SECTION("tracepoint/block/block_rq_complete")
int completed(void *event)
{
    u64 sector = 0;
    u32 sectors = 0;

    if (writes(event, COMPLETE_DEVICE, COMPLETE_SECTOR, COMPLETE_COUNT, COMPLETE_KIND, &sector,
               &sectors)) {
        mark(sector, sectors);
        count(COUNT_SECTORS, sectors);
    }
    return 0;
}

char LICENSE[] SECTION("license") = "Dual BSD/GPL";
