/* SPDX-License-Identifier: GPL-2.0-only */
/* Pins by gup_test, for the race tests of device memory. */
#ifndef HMM_RACE_PINS_H
#define HMM_RACE_PINS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/types.h>
#include <mm/gup_test.h>

#ifndef FOLL_WRITE
#define FOLL_WRITE	0x01
#endif

bool race_pin_briefly(int gup, void *addr, size_t size, uint64_t *random,
		      unsigned int flags);

#endif /* HMM_RACE_PINS_H */
