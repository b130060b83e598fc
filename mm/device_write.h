/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Write access of a device to its own memory, see device_write.c.
 */
#ifndef _MM_DEVICE_WRITE_H
#define _MM_DEVICE_WRITE_H

#include <linux/errno.h>
#include <linux/types.h>

struct folio;
struct vm_area_struct;

/* Return value of device_make_writable(): the page needs a write fault. */
#define DEVICE_WRITE_FAULT	1

#ifdef CONFIG_DEVICE_PRIVATE
int device_make_writable(struct vm_area_struct *vma, unsigned long *addr,
			 unsigned long end, void *owner);
#else
static inline int device_make_writable(struct vm_area_struct *vma,
				       unsigned long *addr, unsigned long end,
				       void *owner)
{
	return 0;
}
#endif

#if IS_ENABLED(CONFIG_KUNIT)
void device_write_relax(struct folio *folio);
#endif

#endif /* _MM_DEVICE_WRITE_H */
