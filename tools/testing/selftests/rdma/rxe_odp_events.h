/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef RXE_ODP_EVENTS_H
#define RXE_ODP_EVENTS_H

#include "rxe_odp_common.h"

/**
 * struct event - something that moves, shares or splits the pages of memory and
 *	leaves its contents as they are
 * @name: for results
 * @happens: make it happen to [p, p + size). Return whether it has happened
 * @beside_traffic: it may happen while others write to the memory
 */
struct event {
	const char *name;
	bool (*happens)(uint8_t *p, size_t size);
	bool beside_traffic;
};

extern const struct event events[];
extern const unsigned int nr_events;

bool have_mirror(void);
bool mirror_reads(uint8_t *p, uint8_t *data, size_t size);
bool mirror_writes(uint8_t *p, uint8_t *data, size_t size);
size_t in_device_memory(uint8_t *p, size_t size);
bool migrate_to_device(uint8_t *p, size_t size);
bool swap_out(uint8_t *p, size_t size);
size_t resident(uint8_t *p, size_t size);

#endif /* RXE_ODP_EVENTS_H */
