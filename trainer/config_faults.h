/*
 * config_faults.h - collects all faults of a configuration, so that they are reported in one go.
 */
#pragma once

#include "base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct FaultPlace {
    const char *origin; /* null: in the file; otherwise the override it came from; borrowed */
    int line, column;   /* from 1 */
} FaultPlace;

typedef struct Fault {
    FaultPlace place;
    int order;
    char *text; /* owned */
} Fault;

typedef struct ConfigFaults {
    const char *name; /* the file, for messages; borrowed */
    Fault *items;
    size_t count, capacity;
    int unkept; /* beyond FAULTS_KEPT */
    Err *err;   /* takes what is no fault of the user's, such as a lack of memory */
} ConfigFaults;

enum { FAULTS_KEPT = 100 };

/* Adds one; the text has no newline and no place. */
void config_fault(ConfigFaults *f, FaultPlace at, const char *format, ...) PRINTF_LIKE(3, 4);

/* Whether anything went wrong so far. */
bool config_faults_any(const ConfigFaults *f);

/*
 * False with ERR_CONFIG in f->err when there are faults, sorted by their place, one a line, cut at a line's end with
 * "and N more faults". Frees the faults in either case.
 */
bool config_faults_finish(ConfigFaults *f) MUST_USE;

#ifdef __cplusplus
}
#endif
