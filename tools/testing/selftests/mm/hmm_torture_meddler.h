/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The process that changes settings of mm, and the settings for all of a run.
 */
#ifndef HMM_TORTURE_MEDDLER_H
#define HMM_TORTURE_MEDDLER_H

#include "hmm_torture_common.h"

void set_up_injection(void);
void end_injection(void);
void hurry_khugepaged(void);

void meddler_process(bool our_swap);
bool meddler_lacks_effect(void);
void report_meddles(void);

#endif /* HMM_TORTURE_MEDDLER_H */
