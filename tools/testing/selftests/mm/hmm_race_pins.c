// SPDX-License-Identifier: GPL-2.0-only
/* Pins by gup_test, see hmm_race_pins.h. */
#include <sys/ioctl.h>

#include "hmm_race_common.h"
#include "hmm_race_pins.h"

/* Pin some memory by one of gup_test's ways, and unpin it. */
bool race_pin_briefly(int gup, void *addr, size_t size, uint64_t *random,
		      unsigned int flags)
{
	static const unsigned long kinds[] = {
		GUP_FAST_BENCHMARK, PIN_FAST_BENCHMARK, PIN_LONGTERM_BENCHMARK,
		GUP_BASIC_TEST, PIN_BASIC_TEST,
	};
	struct gup_test test = {
		.addr = (uintptr_t)addr,
		.size = size,
		.nr_pages_per_call = 1 + race_below(random, 16),
		.gup_flags = flags,
	};

	return !ioctl(gup, kinds[race_below(random, 5)], &test) &&
	       test.size == size;
}
