/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The interface between test_hmm_bench.c and hmm-bench.c. It is not stable:
 * the two are always built together.
 */
#ifndef _LIB_TEST_HMM_BENCH_UAPI_H
#define _LIB_TEST_HMM_BENCH_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum hmm_bench_event {
	HMM_BENCH_TLB_FLUSH,
	HMM_BENCH_RMAP_WALK,
	HMM_BENCH_LRU_LOCK,
	HMM_BENCH_LRU_DRAIN,
	HMM_BENCH_PTE_TABLE,
	HMM_BENCH_FAULT,
	HMM_BENCH_NR_EVENTS
};

enum hmm_bench_content {
	HMM_BENCH_HOLES,
	HMM_BENCH_SYSTEM,
	HMM_BENCH_DEVICE,
};

/* Pages of an area: those with even index, those with odd index */
enum hmm_bench_layout {
	HMM_BENCH_UNIFORM,		/* as the content says */
	HMM_BENCH_ZERO,			/* zero pages: each was read once */
	HMM_BENCH_ZERO_HOLES,		/* zero pages, holes */
	HMM_BENCH_ZERO_PRESENT,		/* zero pages, written */
	HMM_BENCH_HOLES_PRESENT,	/* holes, written */
	HMM_BENCH_FORKED,		/* written, and shared with a child */
	HMM_BENCH_SCATTERED,		/* written, pfns in no order */
	HMM_BENCH_STRIPES,		/* written, in a VMA each: writable, not */
	HMM_BENCH_HINTED,		/* written, then hinted for NUMA */
	HMM_BENCH_NR_LAYOUTS
};

/**
 * struct hmm_bench_row - description of a row
 * @row: index (in); ENOENT behind the last row
 * @order: order of the folios that user space fills the area with
 * @content: HMM_BENCH_HOLES if user space must not fill the area
 * @layout: pattern of the pages
 * @pad: zero
 * @counting: the module counts events instead of instructions
 * @area_size: size of the area in bytes
 * @touch_step: if not zero, the work is done by user space in place of
 *	HMM_BENCH_WORK: it reads one byte of every @touch_step bytes
 * @name: name of the row
 */
struct hmm_bench_row {
	__u32 row;
	__u32 order;
	__u32 content;
	__u32 layout;
	__u32 counting;
	__u32 pad;
	__u64 area_size;
	__u64 touch_step;
	char name[32];
};

/**
 * struct hmm_bench_start - start a row
 * @row: index
 * @pad: zero
 * @addr: address of the area in the calling process
 */
struct hmm_bench_start {
	__u32 row;
	__u32 pad;
	__u64 addr;
};

/**
 * struct hmm_bench_phase - figures of a phase
 * @name: name of the phase
 * @units: units of work, mostly base pages
 * @instructions: instructions in all windows
 * @calls: calls of hmm_range_fault() for the area, or zero
 * @events: events in all windows, if they are counted
 */
struct hmm_bench_phase {
	char name[16];
	__u64 units;
	__u64 instructions;
	__u64 calls;
	__u64 events[HMM_BENCH_NR_EVENTS];
};

#define HMM_BENCH_MAX_PHASES	3

/**
 * struct hmm_bench_finish - figures of a row
 * @touch_ticks: time of all reads by user space, if the row has a touch_step
 * @phases: the phases; unused ones have no name
 */
struct hmm_bench_finish {
	__u64 touch_ticks;
	struct hmm_bench_phase phases[HMM_BENCH_MAX_PHASES];
};

#define HMM_BENCH_ROW		_IOWR('H', 0x40, struct hmm_bench_row)
#define HMM_BENCH_START		_IOW('H', 0x41, struct hmm_bench_start)
#define HMM_BENCH_WORK		_IO('H', 0x42)
#define HMM_BENCH_FINISH	_IOWR('H', 0x43, struct hmm_bench_finish)

#endif
