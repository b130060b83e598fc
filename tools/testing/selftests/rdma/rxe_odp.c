// SPDX-License-Identifier: GPL-2.0-only
/*
 * On-demand paging of soft-RoCE: what arrives is compared byte by byte, at all
 * offsets around page and MTU boundaries, while the kernel moves, shares and
 * takes away the pages. Needs an rxe device, swap, and two NUMA nodes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/ib_user_verbs.h>

#include "../kselftest.h"
#include "rxe_odp_events.h"

#define GRID		(6 * PAGE)
#define REGION		(2 * HUGE_PAGE)

static struct device dev;
static unsigned int seconds = 5;

/* A slow machine needs more time for so many rounds, but a hang has an end. */
#define ROUNDS		20
#define PATIENCE	600

/* A slow machine tries each n-th case only. */
static unsigned int thin = 1;

static const size_t offsets[] = {
	0, 1, 40, 1023, 1024, 1025, PAGE - 1, PAGE, PAGE + 1
};

static const size_t sizes[] = {
	1, 3, 1023, 1024, 1025, PAGE - 1, PAGE + 1, 2 * PAGE + 7
};

/* The transfer, and nothing else, is in the target. */
static bool arrived(struct buffer *to, size_t to_at, size_t from_at, size_t size,
		    unsigned int before, unsigned int after)
{
	return differs(to->p, 0, to_at, before, 0) < 0 &&
	       differs(to->p, to_at, size, after, from_at) < 0 &&
	       differs(to->p, to_at + size, to->size - to_at - size, before,
		       to_at + size) < 0;
}

static bool grid_one(struct pair *pair, enum op op, struct buffer *from,
		     size_t from_at, struct buffer *to, size_t to_at,
		     size_t size)
{
	static unsigned int seed;

	seed += 2;
	fill(from->p, from->size, seed);
	fill(to->p, to->size, seed + 1);
	return transfer(pair, op, from, from_at, to, to_at, size) == 0 &&
	       arrived(to, to_at, from_at, size, seed + 1, seed);
}

/* All offsets of the source, of the target, and all sizes */
static void grid(enum op op, enum kind from_kind, enum kind to_kind)
{
	const unsigned int nr = ARRAY_SIZE(offsets), nr_sizes = ARRAY_SIZE(sizes);
	unsigned int i, wrong = 0, all = 0;
	struct buffer from, to;
	struct pair pair;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, GRID, from_kind);
	buffer_open(&to, &dev, GRID, to_kind);
	for (i = 0; i < nr * nr * nr_sizes; i += thin, all++)
		wrong += !grid_one(&pair, op, &from, offsets[i % nr], &to,
				   offsets[i / nr % nr], sizes[i / nr / nr]);
	ksft_test_result(!wrong, "bytes.%s_from_%s_to_%s # %u of %u wrong\n",
			 op_name[op], from_kind ? "odp" : "pinned",
			 to_kind ? "odp" : "pinned", wrong, all);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

static void grids(void)
{
	enum op op;

	for (op = 0; op < NR_OPS; op++) {
		grid(op, ODP, ODP);
		grid(op, PINNED, ODP);
		grid(op, ODP, PINNED);
	}
}

/* Around the boundary of a huge page, a page and a packet */
static const size_t event_offsets[] = {
	0, PAGE - 3, HUGE_PAGE - 1025, HUGE_PAGE + 5 * PAGE + 1
};

/*
 * The event meets the source, then the target. The target is swapped out before
 * it is compared: a page that is not dirty would lose what was written to it.
 */
static bool event_one(struct pair *pair, const struct event *event, enum op op,
		      struct buffer *from, struct buffer *to, size_t at)
{
	const size_t size = 3 * PAGE + 11;
	size_t to_at = at + 7;

	fill(from->p, from->size, 1);
	fill(to->p, to->size, 2);
	if (!event->happens(from->p, from->size) ||
	    !event->happens(to->p, to->size) ||
	    transfer(pair, op, from, at, to, to_at, size))
		return false;
	/* pages that a child shares stay, so this may do nothing */
	swap_out(to->p, to->size);
	return arrived(to, to_at, at, size, 2, 1);
}

static void event_test(const struct event *event)
{
	const unsigned int nr = ARRAY_SIZE(event_offsets);
	unsigned int i, wrong = 0, all = 0;
	struct buffer from, to;
	struct pair pair;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, REGION, ODP);
	buffer_open(&to, &dev, REGION, ODP);
	for (i = 0; i < NR_OPS * nr; i += thin, all++)
		wrong += !event_one(&pair, event, i % NR_OPS, &from, &to,
				    event_offsets[i / NR_OPS]);
	ksft_test_result(!wrong, "memory_is.%s # %u of %u wrong\n", event->name,
			 wrong, all);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

struct meddler {
	struct buffer *buf[2];
	volatile bool stop;
	volatile unsigned long times;
};

static void *meddle(void *data)
{
	struct meddler *meddler = data;
	unsigned int i = 0;

	while (!meddler->stop) {
		const struct event *event = &events[i++ % nr_events];
		struct buffer *buf = meddler->buf[i % 2];

		if (!event->beside_traffic)
			continue;
		event->happens(buf->p, buf->size);
		meddler->times++;
	}
	return NULL;
}

static bool goes_on(time_t end, unsigned int transfers, unsigned long events)
{
	if (transfers > ROUNDS && events > ROUNDS)
		return time(NULL) < end;
	return time(NULL) < end + PATIENCE;
}

/* Everything that leaves the contents alone, while packets are on their way */
static void traffic_beside_events(void)
{
	unsigned int wrong = 0, all = 0;
	time_t end = time(NULL) + seconds;
	struct meddler meddler = {};
	struct buffer from, to;
	struct pair pair;
	pthread_t thread;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, REGION, ODP);
	buffer_open(&to, &dev, REGION, ODP);
	fill(from.p, from.size, 1);
	meddler.buf[0] = &from;
	meddler.buf[1] = &to;
	pthread_create(&thread, NULL, meddle, &meddler);
	for (; goes_on(end, all, meddler.times); all++) {
		size_t at = all * 4099 % (REGION - 16 * PAGE);
		size_t to_at = all * 7919 % (REGION - 16 * PAGE);
		size_t size = 1 + all * 1021 % (8 * PAGE);

		wrong += transfer(&pair, all % NR_OPS, &from, at, &to, to_at,
				  size) ||
			 differs(to.p, to_at, size, 1, at) >= 0;
	}
	meddler.stop = true;
	pthread_join(thread, NULL);
	wrong += differs(from.p, 0, from.size, 1, 0) >= 0;
	ksft_test_result(!wrong && all > ROUNDS && meddler.times > ROUNDS,
			 "traffic.data_is_right_beside_events # %u of %u wrong, %lu events\n",
			 wrong, all, meddler.times);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

/* ---- What was wrong elsewhere: one test each ---- */

/*
 * A page that is writable and clean: swapped in by a read. What RDMA writes to
 * it must be there after it was swapped out once more.
 */
static void written_page_is_dirty(void)
{
	volatile uint8_t *p;
	unsigned int wrong = 0, i;
	struct buffer from, to;
	struct pair pair;
	uint8_t sum = 0;
	size_t at;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, REGION, PINNED);
	buffer_open(&to, &dev, REGION, ODP);
	madvise(to.p, to.size, MADV_NOHUGEPAGE);
	fill(from.p, from.size, 3);
	for (i = 0; i < 4; i++) {
		fill(to.p, to.size, 4);
		wrong += !swap_out(to.p, to.size);
		for (p = to.p, at = 0; at < to.size; at += PAGE)
			sum += p[at];
		wrong += transfer(&pair, OP_WRITE, &from, 0, &to, 0, to.size);
		wrong += !swap_out(to.p, to.size);
		wrong += differs(to.p, 0, to.size, 3, 0) >= 0;
	}
	ksft_test_result(!wrong, "fixed.written_page_is_dirty # %u wrong\n", wrong);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

/* The table has no entry behind its end, and none of another region's pages. */
static void iova_differs_from_address(void)
{
	const uint64_t iova = 0x7000000000ULL;
	unsigned int wrong = 0;
	struct buffer from, to;
	struct pair pair;
	enum op op;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, GRID, PINNED);
	to.p = memory(GRID) + 0x230;
	to.size = GRID - PAGE;
	to.iova = iova + 0x230;
	to.mr = ibv_reg_mr_iova(dev.pd, to.p, to.size, to.iova,
				ALL_ACCESS | ODP);
	for (op = 0; to.mr && op < NR_OPS; op++) {
		wrong += !grid_one(&pair, op, &from, 3, &to, PAGE - 5, PAGE + 9);
		wrong += !grid_one(&pair, op, &to, 2 * PAGE - 3, &from, 11,
				   PAGE + 9);
	}
	ksft_test_result(to.mr && !wrong,
			 "fixed.iova_may_differ_from_address # %u of 6 wrong\n",
			 wrong);
	if (to.mr)
		ibv_dereg_mr(to.mr);
	buffer_close(&from);
	pair_close(&pair);
}

static int advise_one(struct buffer *buf, unsigned int advice,
		      unsigned int flags, uint64_t addr, uint32_t size,
		      uint32_t key)
{
	struct ibv_sge sge = { addr, size, key };

	(void)buf;
	return advise(&dev, advice, flags, &sge, 1);
}

#define PREFETCH	IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH
#define PREFETCH_WRITE	IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE
#define NO_FAULT	IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT
#define NOW		IB_UVERBS_ADVISE_MR_FLAG_FLUSH

static void prefetch_checks_its_input(void)
{
	struct buffer odp, pinned, read_only;
	int ret[8];

	buffer_open(&odp, &dev, GRID, ODP);
	buffer_open(&pinned, &dev, GRID, PINNED);
	read_only.p = memory(GRID);
	read_only.mr = ibv_reg_mr(dev.pd, read_only.p, GRID, ODP);
	ret[0] = advise_one(&odp, PREFETCH, NOW, pinned.iova, PAGE,
			    pinned.mr->lkey);
	ret[1] = advise_one(&odp, PREFETCH, 0, pinned.iova, PAGE,
			    pinned.mr->lkey);
	ret[2] = advise_one(&odp, PREFETCH, NOW, odp.iova, PAGE, 0xdead00);
	ret[3] = advise_one(&odp, PREFETCH, NOW, odp.iova, PAGE,
			    odp.mr->lkey ^ 1);
	ret[4] = advise_one(&odp, PREFETCH, NOW, odp.iova + GRID, PAGE,
			    odp.mr->lkey);
	ret[5] = advise_one(&odp, PREFETCH_WRITE, 0, ~0ULL - 10, ~0U,
			    odp.mr->lkey);
	ret[6] = advise_one(&odp, PREFETCH_WRITE, NOW, (uintptr_t)read_only.p,
			    PAGE, read_only.mr->lkey);
	ret[7] = advise_one(&odp, 77, NOW, odp.iova, PAGE, odp.mr->lkey);
	ksft_test_result(ret[0] == EINVAL && ret[1] == EINVAL &&
			 ret[2] == EINVAL && ret[3] == EINVAL &&
			 ret[4] == EFAULT && ret[5] == EFAULT &&
			 ret[6] == EPERM && ret[7],
			 "fixed.prefetch_checks_its_input # %d %d %d %d %d %d %d %d\n",
			 ret[0], ret[1], ret[2], ret[3], ret[4], ret[5], ret[6],
			 ret[7]);
	ibv_dereg_mr(read_only.mr);
	buffer_close(&odp);
	buffer_close(&pinned);
}

/* Offsets and lengths that do not fit into an int */
static void regions_may_be_large(void)
{
	const size_t size = 5UL << 30, at = (5UL << 30) - 3 * PAGE - 9;
	struct buffer from, to;
	struct pair pair;
	int ret, wrong;

	pair_open(&pair, &dev, &usual);
	buffer_open(&from, &dev, GRID, PINNED);
	buffer_open(&to, &dev, size, ODP);
	fill(from.p, from.size, 5);
	wrong = transfer(&pair, OP_WRITE, &from, 1, &to, at, 2 * PAGE) ||
		transfer(&pair, OP_WRITE, &from, 1, &to, 0, 2 * PAGE) ||
		differs(to.p + at, 0, 2 * PAGE, 5, 1) >= 0 ||
		differs(to.p, 0, 2 * PAGE, 5, 1) >= 0;
	ret = advise_one(&to, NO_FAULT, NOW, to.iova + PAGE, 0xfffff000,
			 to.mr->lkey);
	ksft_test_result(!wrong && !ret,
			 "fixed.regions_and_prefetch_may_be_large # prefetch %d\n",
			 ret);
	buffer_close(&from);
	buffer_close(&to);
	pair_close(&pair);
}

/* Flushes of volatile memory: nothing to do for visibility, a lie else. */
static void volatile_memory_is_not_persistent(void)
{
	int seen, range, region;
	struct buffer buf;
	struct pair pair;

	buf.p = memory(GRID);
	buf.size = GRID;
	buf.iova = (uintptr_t)buf.p;
	buf.mr = ibv_reg_mr(dev.pd, buf.p, GRID, ALL_ACCESS | ODP |
			    FLUSH_ACCESS);
	if (!buf.mr)
		ksft_exit_fail_msg("register for flushes: %s\n",
				   strerror(errno));
	pair_open(&pair, &dev, &usual);
	seen = flush(&pair, &buf, 1, 2 * PAGE, IB_FLUSH_GLOBAL, IB_FLUSH_RANGE);
	range = flush(&pair, &buf, 1, 2 * PAGE, IB_FLUSH_PERSISTENT,
		      IB_FLUSH_RANGE);
	pair_close(&pair);
	pair_open(&pair, &dev, &usual);
	region = flush(&pair, &buf, 0, 0, IB_FLUSH_PERSISTENT, IB_FLUSH_MR);
	pair_close(&pair);
	ksft_test_result(!seen, "verbs.flush_for_visibility # status %d\n",
			 seen);
	ksft_test_result(range == IBV_WC_REM_ACCESS_ERR &&
			 region == IBV_WC_REM_ACCESS_ERR,
			 "fixed.volatile_memory_is_not_persistent # status %d, %d\n",
			 range, region);
	buffer_close(&buf);
}

struct zapper {
	struct buffer *buf;
	volatile bool stop;
	volatile unsigned long times;
	unsigned long hit;
};

/* A page that is given back is soon one of these. */
static void *zap(void *data)
{
	struct zapper *zapper = data;
	const size_t size = 64 * PAGE;

	while (!zapper->stop) {
		uint8_t *canary;

		madvise(zapper->buf->p, zapper->buf->size, MADV_DONTNEED);
		canary = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
			      MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		fill(canary, size, 77);
		usleep(500);
		zapper->hit += differs(canary, 0, size, 77, 0) >= 0;
		munmap(canary, size);
		zapper->times++;
	}
	return NULL;
}

struct writer {
	struct buffer *from, *to;
	volatile bool stop;
	volatile unsigned long times;
	unsigned long failed;
};

static bool rounds_are_done(const struct zapper *zapper,
			    const struct writer *writer)
{
	return zapper->times > ROUNDS && writer[0].times > ROUNDS &&
	       writer[1].times > ROUNDS;
}

static void *write_all(void *data)
{
	struct writer *writer = data;
	struct pair pair;

	pair_open(&pair, &dev, &usual);
	while (!writer->stop) {
		writer->failed += !!transfer(&pair, OP_WRITE, writer->from, 0,
					     writer->to, 0, 16 * PAGE);
		writer->times++;
	}
	pair_close(&pair);
	return NULL;
}

/* Several walks meet on pages that come and go. */
static void freed_pages_are_not_written(void)
{
	struct writer writer[2];
	struct zapper zapper = {};
	struct buffer from, to;
	pthread_t thread[3];
	unsigned int i;

	buffer_open(&from, &dev, 16 * PAGE, PINNED);
	buffer_open(&to, &dev, 16 * PAGE, ODP);
	fill(from.p, from.size, 6);
	zapper.buf = &to;
	pthread_create(&thread[2], NULL, zap, &zapper);
	for (i = 0; i < 2; i++) {
		writer[i] = (struct writer) { .from = &from, .to = &to };
		pthread_create(&thread[i], NULL, write_all, &writer[i]);
	}
	sleep(seconds);
	for (i = 0; i < PATIENCE && !rounds_are_done(&zapper, writer); i++)
		sleep(1);
	for (i = 0; i < 2; i++) {
		writer[i].stop = true;
		pthread_join(thread[i], NULL);
	}
	zapper.stop = true;
	pthread_join(thread[2], NULL);
	ksft_test_result(!zapper.hit && !writer[0].failed && !writer[1].failed &&
			 rounds_are_done(&zapper, writer),
			 "fixed.freed_pages_are_not_written # %lu of %lu hit, %lu writes, %lu failed\n",
			 zapper.hit, zapper.times,
			 writer[0].times + writer[1].times,
			 writer[0].failed + writer[1].failed);
	buffer_close(&from);
	buffer_close(&to);
}

struct freeze {
	int fd;
	unsigned int seconds;
};

static void *thaw_later(void *data)
{
	struct freeze *freeze = data;

	sleep(freeze->seconds);
	ioctl(freeze->fd, FITHAW, 0);
	return NULL;
}

/*
 * The first write to a page of a file waits while its file system is frozen,
 * far longer than the peer's timeout and its retries. The environment says where
 * there is one that can be frozen.
 */
static void peer_waits_for_slow_fault(enum op op, bool with_srq)
{
	const struct options impatient = {
		.mtu = IBV_MTU_1024,
		.timeout = 18,	/* a second */
		.retries = 3,
		.with_srq = with_srq,
	};
	const char *dir = getenv("RXE_ODP_FREEZE");
	struct freeze freeze = { .seconds = 12 };
	struct buffer from, to = { .size = GRID };
	struct pair pair;
	pthread_t thread;
	char name[256];
	int fd, ret;
	time_t start;

	if (!dir) {
		ksft_test_result_skip("fixed.peer_waits_for_slow_fault.%s%s: no RXE_ODP_FREEZE\n",
				      op_name[op], with_srq ? "_srq" : "");
		return;
	}
	snprintf(name, sizeof(name), "%s/file", dir);
	fd = open(name, O_RDWR | O_CREAT, 0600);
	to.p = mmap(NULL, GRID, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || ftruncate(fd, 0) || ftruncate(fd, GRID) ||
	    to.p == MAP_FAILED)
		ksft_exit_fail_msg("%s: %s\n", name, strerror(errno));
	buffer_register(&to, &dev, ODP);
	buffer_open(&from, &dev, GRID, PINNED);
	fill(from.p, from.size, 7);
	pair_open(&pair, &dev, &impatient);
	freeze.fd = open(dir, O_RDONLY);
	fsync(fd);
	if (ioctl(freeze.fd, FIFREEZE, 0))
		ksft_exit_fail_msg("freeze %s: %s\n", dir, strerror(errno));
	start = time(NULL);
	pthread_create(&thread, NULL, thaw_later, &freeze);
	ret = transfer(&pair, op, &from, 5, &to, PAGE - 9, 3 * PAGE);
	pthread_join(thread, NULL);
	ksft_test_result(!ret && time(NULL) - start >= 3 &&
			 differs(to.p, PAGE - 9, 3 * PAGE, 7, 5) < 0,
			 "fixed.peer_waits_for_slow_fault.%s%s # status %d\n",
			 op_name[op], with_srq ? "_srq" : "", ret);
	pair_close(&pair);
	buffer_close(&from);
	ibv_dereg_mr(to.mr);
	munmap(to.p, GRID);
	close(freeze.fd);
	close(fd);
}

/* ---- The rest of the verbs ---- */

static void atomics(void)
{
	static const size_t at[] = { 0, 8, PAGE - 8, PAGE, 2 * PAGE - 8 };
	unsigned int i, wrong = 0;
	struct buffer word, old;
	struct pair pair;
	uint64_t *p, *o;

	pair_open(&pair, &dev, &usual);
	buffer_open(&word, &dev, GRID, ODP);
	buffer_open(&old, &dev, PAGE, ODP);
	o = (uint64_t *)old.p;
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		p = (uint64_t *)(word.p + at[i]);
		fill(word.p, word.size, 9);
		*p = 1000;
		swap_out(word.p, word.size);
		swap_out(old.p, old.size);
		wrong += fetch_add(&pair, &word, at[i], 5, &old) ||
			 *p != 1005 || *o != 1000;
		wrong += compare_swap(&pair, &word, at[i], 1005, 7, &old) ||
			 *p != 7 || *o != 1005;
		wrong += compare_swap(&pair, &word, at[i], 1005, 8, &old) ||
			 *p != 7 || *o != 7;
		wrong += differs(word.p, 0, at[i], 9, 0) >= 0 ||
			 differs(word.p, at[i] + 8, GRID - at[i] - 8, 9,
				 at[i] + 8) >= 0;
	}
	ksft_test_result(!wrong, "verbs.atomics # %u of 20 wrong\n", wrong);
	pair_close(&pair);
	buffer_close(&word);
	buffer_close(&old);
}

static void atomic_writes(void)
{
	static const size_t at[] = { 0, 8, PAGE - 8, PAGE, 2 * PAGE - 8 };
	unsigned int i, wrong = 0;
	struct buffer word, old;
	struct pair pair;

	pair_open(&pair, &dev, &usual);
	buffer_open(&word, &dev, GRID, ODP);
	buffer_open(&old, &dev, PAGE, ODP);
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		const uint64_t value = 0x0123456789abcdefULL + i;

		fill(word.p, word.size, 9);
		swap_out(word.p, word.size);
		wrong += atomic_write(&pair, &word, at[i], value) ||
			 memcmp(word.p + at[i], &value, 8) ||
			 differs(word.p, 0, at[i], 9, 0) >= 0 ||
			 differs(word.p, at[i] + 8, GRID - at[i] - 8, 9,
				 at[i] + 8) >= 0;
	}
	ksft_test_result(!wrong, "verbs.atomic_write # %u of 5 wrong\n", wrong);
	ksft_test_result(atomic_write(&pair, &word, 4, 1) ==
			 IBV_WC_REM_INV_REQ_ERR,
			 "verbs.misaligned_atomic_write_is_refused\n");
	pair_close(&pair);
	pair_open(&pair, &dev, &usual);
	ksft_test_result(fetch_add_anywhere(&pair, &word, 4, 1, &old) ==
			 IBV_WC_REM_INV_REQ_ERR,
			 "verbs.misaligned_atomic_is_refused\n");
	pair_close(&pair);
	buffer_close(&word);
	buffer_close(&old);
}

static void shared_receive_queue(void)
{
	struct options options = usual;
	unsigned int i, wrong = 0;
	struct buffer from, to;
	struct pair pair;

	options.with_srq = true;
	pair_open(&pair, &dev, &options);
	buffer_open(&from, &dev, GRID, ODP);
	buffer_open(&to, &dev, GRID, ODP);
	for (i = 0; i < 40; i++) {
		if (i % 2)
			swap_out(to.p, to.size);
		wrong += !grid_one(&pair, OP_SEND, &from, i, &to, PAGE - i,
				   2 * PAGE + 3);
	}
	ksft_test_result(!wrong, "verbs.shared_receive_queue # %u of 40 wrong\n",
			 wrong);
	pair_close(&pair);
	buffer_close(&from);
	buffer_close(&to);
}

/* Is prefetch over, which has no completion? */
static bool becomes_resident(struct buffer *buf, size_t size)
{
	int tries;

	for (tries = 0; tries < 200; tries++) {
		if (resident(buf->p, size) == size / PAGE)
			return true;
		usleep(10000);
	}
	return false;
}

static void prefetch(void)
{
	struct ibv_sge sge[2];
	struct buffer buf;
	bool now, later, look;

	buffer_open(&buf, &dev, REGION, ODP);
	now = !advise_one(&buf, PREFETCH_WRITE, NOW, buf.iova, REGION,
			  buf.mr->lkey) &&
	      resident(buf.p, REGION) == REGION / PAGE;
	fill(buf.p, REGION, 1);
	swap_out(buf.p, REGION);
	sge[0] = (struct ibv_sge) { buf.iova, HUGE_PAGE, buf.mr->lkey };
	sge[1] = (struct ibv_sge) { buf.iova + HUGE_PAGE, HUGE_PAGE,
				    buf.mr->lkey };
	later = !advise(&dev, PREFETCH, 0, sge, 2) &&
		becomes_resident(&buf, REGION);
	madvise(buf.p, REGION, MADV_DONTNEED);
	look = !advise_one(&buf, NO_FAULT, NOW, buf.iova, REGION,
			   buf.mr->lkey) && !resident(buf.p, REGION);
	ksft_test_result(now, "verbs.prefetch_for_writing_faults_pages\n");
	ksft_test_result(later, "verbs.prefetch_in_the_background_faults_pages\n");
	ksft_test_result(look, "verbs.prefetch_without_fault_only_looks\n");
	buffer_close(&buf);
}

static void registration(void)
{
	long pinned = status_kib("VmPin"), rss;
	struct buffer buf, bad;
	uint8_t *p;

	buffer_open(&buf, &dev, 256UL << 20, ODP);
	rss = status_kib("VmRSS");
	ksft_test_result(!resident(buf.p, HUGE_PAGE) && rss < (200L << 10) &&
			 status_kib("VmPin") == pinned,
			 "registration.faults_and_pins_nothing\n");
	buffer_close(&buf);
	bad.mr = ibv_reg_mr(dev.pd, NULL, SIZE_MAX, ALL_ACCESS | ODP);
	ksft_test_result(!bad.mr && errno == EOPNOTSUPP,
			 "registration.implicit_region_is_refused\n");
	p = memory(GRID);
	munmap(p + PAGE, PAGE);
	bad.mr = ibv_reg_mr(dev.pd, p, GRID, ALL_ACCESS | ODP);
	ksft_test_result(bad.mr, "registration.memory_may_have_gaps\n");
	if (bad.mr)
		ibv_dereg_mr(bad.mr);
	bad.mr = ibv_reg_mr(dev.pd, p, SIZE_MAX - PAGE, ALL_ACCESS | ODP);
	ksft_test_result(!bad.mr, "registration.length_must_not_overflow\n");
}

/*
 * Two devices mirror one buffer: soft-RoCE, and the dummy device, which has
 * memory of its own. The buffer migrates there, and an RDMA access brings back
 * the pages that it needs, and no other.
 */
static void shared_with_a_device(void)
{
	const size_t size = 64 * PAGE, at = 10 * PAGE - 7, few = 2 * PAGE + 9;
	uint8_t *seen = malloc(size), *data = malloc(size);
	unsigned int wrong = 0, round;
	struct buffer shared, other;
	struct pair pair;
	enum op op;

	pair_open(&pair, &dev, &usual);
	buffer_open(&shared, &dev, size, ODP);
	buffer_open(&other, &dev, size, PINNED);
	for (round = 0; round < 12; round++) {
		op = round % NR_OPS;
		/* the device writes, RDMA reads */
		fill(data, size, round);
		wrong += !mirror_writes(shared.p, data, size);
		wrong += !migrate_to_device(shared.p, size);
		fill(other.p, size, 99);
		wrong += transfer(&pair, op, &shared, at, &other, 3, few) ||
			 differs(other.p, 3, few, round, at) >= 0;
		wrong += in_device_memory(shared.p, size) != size / PAGE - 4;
		/* RDMA writes, the device reads */
		wrong += !migrate_to_device(shared.p, size);
		fill(other.p, size, round + 50);
		wrong += transfer(&pair, op, &other, at, &shared, at, few) ||
			 !mirror_reads(shared.p, seen, size) ||
			 differs(seen, at, few, round + 50, at) >= 0 ||
			 differs(seen, 0, at, round, 0) >= 0;
	}
	ksft_test_result(!wrong, "memory_is.shared_with_a_device # %u of 60 wrong\n",
			 wrong);
	buffer_close(&shared);
	buffer_close(&other);
	pair_close(&pair);
	free(seen);
	free(data);
}

static void all_events(void)
{
	unsigned int i;

	if (!have_mirror())
		ksft_exit_fail_msg("no /dev/hmm_dmirror0: load test_hmm\n");
	shared_with_a_device();
	for (i = 0; i < nr_events; i++)
		event_test(&events[i]);
	traffic_beside_events();
}

static void verbs(void)
{
	atomics();
	atomic_writes();
	shared_receive_queue();
	prefetch();
}

static void mended(void)
{
	written_page_is_dirty();
	iova_differs_from_address();
	prefetch_checks_its_input();
	regions_may_be_large();
	freed_pages_are_not_written();
	volatile_memory_is_not_persistent();
}

static void slow(void)
{
	peer_waits_for_slow_fault(OP_WRITE, false);
	peer_waits_for_slow_fault(OP_READ, false);
	peer_waits_for_slow_fault(OP_SEND, false);
	peer_waits_for_slow_fault(OP_SEND, true);
}

/* With the number of results; that of events comes on top. */
static const struct {
	const char *name;
	void (*run)(void);
	unsigned int results;
} groups[] = {
	{ "registration", registration, 4 },
	{ "bytes", grids, 9 },
	{ "events", all_events, 2 },
	{ "verbs", verbs, 8 },
	{ "fixed", mended, 7 },
	{ "slow", slow, 4 },
};

static unsigned int plan(const char *only)
{
	unsigned int i, nr = 0;

	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		if (only && strcmp(only, groups[i].name))
			continue;
		nr += groups[i].results;
		if (groups[i].run == all_events)
			nr += nr_events;
	}
	return nr;
}

/*
 * rxe_odp [SECONDS [NAME]]: all tests, or those whose group has the name. The
 * environment: RXE_ODP_FREEZE is a directory on a file system that can be frozen,
 * and RXE_ODP_THIN says which cases to try, each n-th.
 */
int main(int argc, char **argv)
{
	unsigned int i;

	if (argc > 1)
		seconds = atoi(argv[1]);
	if (getenv("RXE_ODP_THIN"))
		thin = atoi(getenv("RXE_ODP_THIN"));
	ksft_print_header();
	ksft_set_plan(plan(argc < 3 ? NULL : argv[2]));
	device_open(&dev);
	for (i = 0; i < ARRAY_SIZE(groups); i++)
		if (argc < 3 || !strcmp(argv[2], groups[i].name))
			groups[i].run();
	device_close(&dev);
	ksft_finished();
}
