// Marks what is written to the tracked disks of a server, at two tracepoints of the block layer.
// Where the running kernel has the fields of its structures is filled in by whoever loads it, from
// the kernel's own description (BTF), so that one object serves many kernels.
//
// What a request writes is marked when it is issued, before it may reach the disk, and again when
// it is completed: marks may be taken in between. From the one to the other it stands in a slot of
// its own, so that whoever takes marks knows what is under way, and a completion that was not seen
// loses nothing: its request stands in the slot until the next one comes into it.
//
// The kernel skips a program that is already running on the processor, for an event that
// interrupts it. So `issued` is there three times, one copy after the other: events interrupt one
// another at most twice (a task by a soft interrupt, that by a hard one), each of the interrupted
// ones stands within one copy at most, and the third runs. To mark twice is to mark once.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
// Of a structure of the kernel: no more of it is here than is read.
#define KERNEL __attribute__((preserve_access_index))

enum {
    BPF_MAP_TYPE_ARRAY = 2,
    BPF_MAP_TYPE_HASH_OF_MAPS = 13,
    BPF_F_MMAPABLE = 1024,
    BPF_F_INNER_MAP = 4096,
};

// bpf-helpers(7).
static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;

struct gendisk {
    int major;
    int first_minor;
} KERNEL;

struct request_queue {
    struct gendisk *disk;
} KERNEL;

struct bvec_iter {
    u64 bi_sector;
    u32 bi_size;
} KERNEL;

struct bio {
    struct bio *bi_next;
    struct bvec_iter bi_iter;
} KERNEL;

struct blk_mq_hw_ctx {
    u32 queue_num;
} KERNEL;

struct request {
    struct request_queue *q;
    struct blk_mq_hw_ctx *mq_hctx;
    u32 cmd_flags;
    int tag;
    int internal_tag;
    u32 __data_len;
    u64 __sector;
    struct bio *bio;
} KERNEL;

#define READ(from, field)                                                      \
    ({                                                                         \
        __typeof__((from)->field) value = 0;                                   \
        probe_read_kernel(&value, sizeof(value),                               \
                          __builtin_preserve_access_index(&(from)->field));    \
        value;                                                                 \
    })

// The words of a disk's map, see `probe.rs`.
enum {
    SECTORS = 0,
    REFUSED = 1,
    LATE = 2,
    WIDE_WORDS = 7,
    QUEUES = 8,
    DEPTH = 9,
    HEADER = 16,
};

// A grain has 1 << GRAIN_SHIFT sectors of 512 bytes.
#define GRAIN_SHIFT 7
// A request has less than 4 GiB: so many words of wide marks, where it does not begin with one.
#define LONGEST 17
// Ranges of a discard: NVMe's limit, the highest there is.
#define RANGES 256

// What is marked of one disk.
struct disk {
    int (*type)[BPF_MAP_TYPE_ARRAY];
    u32 *key;
    u64 *value;
    int (*max_entries)[1];
    int (*map_flags)[BPF_F_MMAPABLE | BPF_F_INNER_MAP];
};

// Tracked disks by device number, as the kernel has it: major << 20 | minor.
struct {
    int (*type)[BPF_MAP_TYPE_HASH_OF_MAPS];
    u32 *key;
    u32 *value;
    int (*max_entries)[4096];
    struct disk *values[];
} disks SECTION(".maps");

INLINE void add(void *disk, u32 which, u64 by)
{
    u64 *counter = map_lookup(disk, &which);
    if (counter)
        __sync_fetch_and_add(counter, by);
}

INLINE void set(void *disk, u64 word, u64 bits)
{
    u32 key = word;
    u64 *at = map_lookup(disk, &key);
    if (at && (*at & bits) != bits)
        __sync_fetch_and_or(at, bits);
}

// Sets bits `first` to `last`, which are in at most LONGEST words, of a bitmap that begins with
// word `base`.
INLINE void set_range(void *disk, u64 base, u64 first, u64 last)
{
    u64 word = first >> 6;
    u64 last_word = last >> 6;

    for (u32 i = 0; i < LONGEST; i++) {
        u64 bits = ~0ull;

        if (word + i > last_word)
            break;
        if (i == 0)
            bits &= ~0ull << (first & 63);
        if (word + i == last_word)
            bits &= ~0ull >> (63 - (last & 63));
        set(disk, base + word + i, bits);
    }
}

INLINE u64 told(void *disk, u32 which)
{
    u64 *word = map_lookup(disk, &which);
    return word ? *word : 0;
}

// Marks a range. Not inline: the kernel checks it once, and not for each range of a discard.
__attribute__((noinline)) int mark(u32 number, u64 sector, u64 sectors)
{
    void *disk = map_lookup(&disks, &number);
    u64 first = sector >> GRAIN_SHIFT;
    u64 last = (sector + sectors - 1) >> GRAIN_SHIFT;
    u64 word = first >> 6;
    u64 last_word = last >> 6;
    u64 base;

    if (!disk || !sectors)
        return 0;
    base = HEADER + told(disk, WIDE_WORDS) + told(disk, QUEUES) * told(disk, DEPTH);
    if (word == last_word) {
        set(disk, base + word, (~0ull << (first & 63)) & (~0ull >> (63 - (last & 63))));
        return 0;
    }
    set(disk, base + word, ~0ull << (first & 63));
    set(disk, base + last_word, ~0ull >> (63 - (last & 63)));
    if (last_word - word > 1)
        set_range(disk, HEADER, word + 1, last_word - 1);
    return 0;
}

// Where a request stands. A disk's hardware queues number theirs; with a scheduler it is the
// scheduler's number that stays when a request is issued again.
INLINE u64 *slot_of(void *disk, struct request *request)
{
    struct blk_mq_hw_ctx *context = READ(request, mq_hctx);
    u64 queue = READ(context, queue_num);
    u64 depth = told(disk, DEPTH);
    int tag = READ(request, internal_tag);
    u32 key;

    if (tag < 0)
        tag = READ(request, tag);
    if (tag < 0 || tag >= depth || queue >= told(disk, QUEUES))
        return 0;
    key = HEADER + told(disk, WIDE_WORDS) + queue * depth + tag;
    return map_lookup(disk, &key);
}

// What is in a slot: 0 if nothing ever was, else DONE when its request was completed, SCATTERED
// when its ranges do not adjoin, 38 bits of its first sector, 24 of their number.
#define DONE (1ull << 63)
#define SCATTERED (1ull << 62)
#define FIRST(slot) (((slot) & ~(DONE | SCATTERED)) >> 24)
#define COUNT(slot) ((slot) & 0xffffff)

INLINE u64 is_scattered(struct bio *bio)
{
    return bio && READ(bio, bi_next) ? SCATTERED : 0;
}

INLINE void issue(void *disk, u32 number, struct request *request, u64 this)
{
    u64 *slot = slot_of(disk, request);
    u64 old;

    if (!slot)
        return;
    old = __sync_lock_test_and_set(slot, this);
    if (!old || old & DONE || old == this)
        return;
    if (FIRST(old) + COUNT(old) == FIRST(this) + COUNT(this)) {
        // A part of it was completed, and the rest is issued again.
        add(disk, SECTORS, COUNT(old) - COUNT(this));
        return;
    }
    // Its completion was not seen, but here is the next request in its place.
    mark(number, FIRST(old), COUNT(old));
    add(disk, SECTORS, COUNT(old));
    add(disk, LATE, 1);
    if (old & SCATTERED)
        add(disk, REFUSED, 1);
}

INLINE void complete(void *disk, struct request *request, u64 sectors)
{
    u64 *slot = slot_of(disk, request);
    u64 old;

    if (!slot)
        return;
    old = *slot;
    if (!old) {
        // It was issued before this disk's writes were marked.
        *slot = DONE;
        add(disk, SECTORS, sectors);
    } else if (!(old & DONE) && __sync_val_compare_and_swap(slot, old, old | DONE) == old) {
        add(disk, SECTORS, COUNT(old));
    }
}

// Numbers of operations are odd when data go to the device; from 32 on they are commands of the
// driver's own, which the kernel does not count either.
enum {
    OP_MASK = 0xff,
    OP_DISCARD = 3,
    OP_DRIVER = 32,
};

INLINE int written(struct request *request, u32 bytes, int is_complete)
{
    u32 op = READ(request, cmd_flags) & OP_MASK;
    u32 left = READ(request, __data_len);
    u64 sector = READ(request, __sector);
    u64 sectors = bytes >> 9;
    struct request_queue *queue;
    struct gendisk *of;
    struct bio *bio = 0;
    void *disk;
    u32 number;

    if (!(op & 1) || op >= OP_DRIVER || !sectors)
        return 0;
    queue = READ(request, q);
    of = READ(queue, disk);
    if (!of)
        return 0;
    number = READ(of, major) << 20 | READ(of, first_minor);
    disk = map_lookup(&disks, &number);
    if (!disk)
        return 0;
    if (op == OP_DISCARD)
        bio = READ(request, bio);
    // It is in its slot before it is marked, and marked again before it is not any more.
    if (!is_complete)
        issue(disk, number, request, sector << 24 | sectors | is_scattered(bio));
    if (!bio)
        mark(number, sector, sectors);
    for (u32 i = 0; bio && i < RANGES; i++) {
        mark(number, READ(bio, bi_iter.bi_sector), READ(bio, bi_iter.bi_size) >> 9);
        bio = READ(bio, bi_next);
    }
    if (bio)
        add(disk, REFUSED, 1);
    // After the last part of it.
    if (is_complete && bytes >= left)
        complete(disk, request, sectors);
    return 0;
}

// block_rq_issue(request).
#define ISSUED(copy)                                                            \
    SECTION("raw_tp/block_rq_issue")                                            \
    int issued##copy(u64 *event)                                                \
    {                                                                           \
        struct request *request = (void *)event[0];                             \
        return written(request, READ(request, __data_len), 0);                  \
    }

ISSUED(1)
ISSUED(2)
ISSUED(3)

// block_rq_complete(request, error, bytes).
SECTION("raw_tp/block_rq_complete")
int completed(u64 *event)
{
    return written((void *)event[0], event[2], 1);
}

char LICENSE[] SECTION("license") = "Dual BSD/GPL";
