#include "core/map.h"

#include "base/check.h"

#include <errno.h>
#include <string.h>

enum {
	SPLIT_ABOVE = MAP_SEGMENT_SLOTS * 3 / 4,
	SEGMENT_MAX = MAP_SEGMENT_SLOTS - 1, /* probing ends at an empty slot */
	SEGMENT_BYTES = MAP_SEGMENT_SLOTS * sizeof(struct map_slot),
	LINE_BYTES = 64,
	/* Segments are never joined: under churn each one splits at the top of its fluctuation
	 * (square root of its mean), which leaves halves of some 60 entries in the long run. */
	WORST_FILL = 48,
	SPARE_SEGMENTS = 4,
	/* Depth beyond that of evenly spread hashes. */
	SPARE_DEPTH = 2,
	DEPTH_LIMIT = 32, /* the bits above the home slot's */
};
_Static_assert(SEGMENT_BYTES == 4096, "a segment is a page");

struct layout {
	uint32_t max_segments;
	uint8_t depth_max;
	size_t count_at, depth_at, segments_at, total;
};

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static unsigned log2_up(uint32_t n)
{
	return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

static struct layout layout_of(uint64_t max_entries, unsigned parts)
{
	CHECK(max_entries <= MAP_ENTRIES_MAX);
	CHECK(parts >= 1);
	struct layout l = {.max_segments = (uint32_t)(max_entries / WORST_FILL) + SPARE_SEGMENTS};
	unsigned depth = log2_up(l.max_segments) + SPARE_DEPTH + log2_up(parts);
	l.depth_max = (uint8_t)(depth < DEPTH_LIMIT ? depth : DEPTH_LIMIT);
	l.count_at = round_up(sizeof(uint32_t) << l.depth_max, LINE_BYTES);
	l.depth_at = round_up(l.count_at + sizeof(uint16_t) * l.max_segments, LINE_BYTES);
	l.segments_at = round_up(l.depth_at + l.max_segments, LINE_BYTES);
	/* A page more: @mem is aligned to a line, segments to a page. */
	l.total = l.segments_at + ((size_t)l.max_segments + 1) * SEGMENT_BYTES;
	return l;
}

size_t map_memory_bytes(uint64_t max_entries, unsigned parts)
{
	return layout_of(max_entries, parts).total;
}

void map_init(struct map *m, void *mem, uint64_t max_entries, unsigned parts)
{
	CHECK(mem != NULL && (uintptr_t)mem % LINE_BYTES == 0);
	struct layout l = layout_of(max_entries, parts);
	uint8_t *p = mem;
	size_t to_page = -(uintptr_t)(p + l.segments_at) % SEGMENT_BYTES;
	*m = (struct map){
		.dir = mem,
		.segments = (void *)(p + l.segments_at + to_page),
		.seg_count = (void *)(p + l.count_at),
		.seg_depth = p + l.depth_at,
		.depth_max = l.depth_max,
		.n_segments = 1,
		.max_segments = l.max_segments,
		.touched_segments = 1,
	};
}

static struct map_slot *segment_at(const struct map *m, uint32_t n)
{
	return m->segments + (size_t)n * MAP_SEGMENT_SLOTS;
}

void map_clear(struct map *m)
{
	m->depth = 0;
	m->n_segments = 1;
	m->count = 0;
	m->dir[0] = 0;
	m->seg_count[0] = 0;
	m->seg_depth[0] = 0;
	memset(m->segments, 0, SEGMENT_BYTES);
}

struct map_slot *map_next(const struct map *m, uint64_t hash, const struct map_slot *after)
{
	struct map_slot *seg = map_segment(m, hash);
	CHECK(after >= seg && after < seg + MAP_SEGMENT_SLOTS);
	unsigned i = (unsigned)(after - seg + 1) % MAP_SEGMENT_SLOTS;
	return map_probe(seg, i, map_stored_hash(hash));
}

static void put(struct map_slot *seg, struct map_slot entry)
{
	unsigned i = map_home(entry.hash);
	while (seg[i].hash != 0)
		i = (i + 1) % MAP_SEGMENT_SLOTS;
	seg[i] = entry;
}

static uint32_t take_segment(struct map *m, uint8_t depth)
{
	uint32_t n = m->n_segments++;
	if (n < m->touched_segments)
		memset(segment_at(m, n), 0, SEGMENT_BYTES);
	else
		m->touched_segments = n + 1;
	m->seg_count[n] = 0;
	m->seg_depth[n] = depth;
	return n;
}

static void double_directory(struct map *m)
{
	for (size_t i = (size_t)1 << m->depth; i-- > 0;) {
		uint32_t seg = m->dir[i];
		m->dir[2 * i] = seg;
		m->dir[2 * i + 1] = seg;
	}
	m->depth++;
}

/* Does some bit that a directory can look at tell the entries, @hash included, apart? Without this
 * a crowd of equal hashes would split to the last segment and gain nothing. */
static bool can_part(const struct map *m, const struct map_slot *seg, uint64_t hash)
{
	uint64_t differing = 0;
	for (unsigned i = 0; i < MAP_SEGMENT_SLOTS; i++)
		differing |= seg[i].hash != 0 ? seg[i].hash ^ hash : 0;
	return (differing >> 1) >> (63 - m->depth_max) != 0;
}

/* Split the segment of @hash in two by the next bit of the hash. */
static void split(struct map *m, uint64_t hash)
{
	uint32_t low = m->dir[map_dir_index(m, hash)];
	uint8_t depth = m->seg_depth[low];
	if (depth == m->depth)
		double_directory(m);
	m->seg_depth[low] = (uint8_t)(depth + 1);
	uint32_t high = take_segment(m, (uint8_t)(depth + 1));

	size_t half = (size_t)1 << (m->depth - depth - 1);
	size_t first = map_dir_index(m, hash) & ~(2 * half - 1);
	for (size_t i = first + half; i < first + 2 * half; i++)
		m->dir[i] = high;

	struct map_slot *from = segment_at(m, low), *to = segment_at(m, high);
	unsigned start = 0;
	while (from[start].hash != 0)
		start++;
	/* In place: from an empty slot on, putting an entry back only looks at slots that were
	 * handled before and at the one it came from. */
	unsigned bit = 63U - depth, moved = 0;
	for (unsigned n = 1; n < MAP_SEGMENT_SLOTS; n++) {
		struct map_slot *slot = from + (start + n) % MAP_SEGMENT_SLOTS;
		struct map_slot entry = *slot;
		if (entry.hash == 0)
			continue;
		*slot = (struct map_slot){0};
		bool goes = entry.hash >> bit & 1;
		put(goes ? to : from, entry);
		moved += goes;
	}
	m->seg_count[high] = (uint16_t)moved;
	m->seg_count[low] = (uint16_t)(m->seg_count[low] - moved);
}

int map_insert(struct map *m, uint64_t hash, uint64_t value)
{
	struct map_slot entry = {.hash = map_stored_hash(hash), .value = value};
	uint32_t n = m->dir[map_dir_index(m, hash)];
	while (m->seg_count[n] >= SPLIT_ABOVE && m->seg_depth[n] < m->depth_max &&
		m->n_segments < m->max_segments && can_part(m, segment_at(m, n), entry.hash)) {
		split(m, hash);
		n = m->dir[map_dir_index(m, hash)];
	}
	if (m->seg_count[n] >= SEGMENT_MAX)
		return -ENOSPC;
	put(segment_at(m, n), entry);
	m->seg_count[n]++;
	m->count++;
	return 0;
}

void map_erase(struct map *m, uint64_t hash, struct map_slot *slot)
{
	struct map_slot *seg = map_segment(m, hash);
	CHECK(slot >= seg && slot < seg + MAP_SEGMENT_SLOTS);
	CHECK(slot->hash == map_stored_hash(hash));
	unsigned gap = (unsigned)(slot - seg);
	for (unsigned i = (gap + 1) % MAP_SEGMENT_SLOTS; seg[i].hash != 0;
		i = (i + 1) % MAP_SEGMENT_SLOTS) {
		unsigned from_home = (i - map_home(seg[i].hash)) % MAP_SEGMENT_SLOTS;
		if (from_home >= (i - gap) % MAP_SEGMENT_SLOTS) {
			seg[gap] = seg[i];
			gap = i;
		}
	}
	seg[gap] = (struct map_slot){0};
	m->seg_count[m->dir[map_dir_index(m, hash)]]--;
	m->count--;
}

uint64_t map_scan(const struct map *m, uint64_t cursor,
	void (*each)(void *arg, struct map_slot slot), void *arg)
{
	if (cursor > UINT32_MAX)
		return 0; /* a client may send any cursor back */
	uint32_t n = m->dir[map_dir_index(m, cursor << 32)];
	const struct map_slot *seg = segment_at(m, n);
	for (unsigned i = 0; i < MAP_SEGMENT_SLOTS; i++) {
		if (seg[i].hash != 0)
			each(arg, seg[i]);
	}
	unsigned below = 32U - m->seg_depth[n];
	uint64_t next = ((cursor >> below) + 1) << below;
	return next > UINT32_MAX ? 0 : next;
}

size_t map_used_bytes(const struct map *m)
{
	return (sizeof(uint32_t) << m->depth) +
	       m->touched_segments * (SEGMENT_BYTES + sizeof(uint16_t) + sizeof(uint8_t));
}

/* @prefix: the hash bits all entries of the segment have in common, at the top. */
static void validate_segment(const struct map *m, uint32_t n, uint64_t prefix)
{
	const struct map_slot *seg = segment_at(m, n);
	unsigned depth = m->seg_depth[n], count = 0;
	for (unsigned i = 0; i < MAP_SEGMENT_SLOTS; i++) {
		if (seg[i].hash == 0)
			continue;
		count++;
		CHECK((seg[i].hash >> 1) >> (63 - depth) == prefix);
		for (unsigned at = map_home(seg[i].hash); at != i;
			at = (at + 1) % MAP_SEGMENT_SLOTS)
			CHECK(seg[at].hash != 0);
	}
	CHECK(count == m->seg_count[n]);
	CHECK(count <= SEGMENT_MAX);
}

void map_validate(const struct map *m)
{
	CHECK(m->depth <= m->depth_max);
	CHECK(m->n_segments >= 1 && m->n_segments <= m->touched_segments);
	CHECK(m->touched_segments <= m->max_segments);
	uint64_t entries = 0, segments = 0, numbers = 0;
	size_t span;
	for (size_t i = 0; i < (size_t)1 << m->depth; i += span) {
		uint32_t n = m->dir[i];
		CHECK(n < m->n_segments);
		CHECK(m->seg_depth[n] <= m->depth);
		span = (size_t)1 << (m->depth - m->seg_depth[n]);
		CHECK(i % span == 0);
		for (size_t j = i; j < i + span; j++)
			CHECK(m->dir[j] == n);
		validate_segment(m, n, i / span);
		entries += m->seg_count[n];
		segments++;
		numbers += n;
	}
	CHECK(entries == m->count);
	/* Every segment is in the directory once. */
	CHECK(segments == m->n_segments);
	CHECK(numbers == segments * (segments - 1) / 2);
}
