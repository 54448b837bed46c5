#include "optim/pages.h"

#include "base/check.h"

static bool fill_with_zeros(File *f, size_t bytes, Err *err)
{
    static const char zeros[1 << 16];
    for (size_t at = 0; at < bytes; at += sizeof zeros) {
        const size_t left = bytes - at;
        if (!file_write(f, zeros, left < sizeof zeros ? left : sizeof zeros, err)) return false;
    }
    return true;
}

bool pages_open(Pages *out, const char *path, size_t region_bytes, Err *err)
{
    Pages p = {.region_bytes = region_bytes};
    if (!file_create(&p.writing, path, err)) return err_note(err, "page file of the optimizer");
    TRY(fill_with_zeros(&p.writing, 2 * region_bytes, err));
    TRY(file_open_read(&p.reading, path, ERR_DISK, err));
    TRY(file_remove(path, err));
    *out = p;
    return true;
fail:
    pages_close(&p);
    Err ignored = {0};
    (void)!file_remove(path, &ignored);
    return err_note(err, "page file of the optimizer (%zu bytes)", 2 * region_bytes);
}

void pages_close(Pages *p)
{
    file_close(&p->writing);
    file_close(&p->reading);
    *p = (Pages){0};
}

static uint64_t place_of(const Pages *p, int moment, size_t first, size_t length)
{
    CHECK((moment == 1 || moment == 2) && first + length <= p->region_bytes);
    return (uint64_t)first + (moment == 2 ? p->region_bytes : 0);
}

bool pages_read(const Pages *p, int moment, size_t first, size_t length, void *to, Err *err)
{
    return file_read_at(&p->reading, place_of(p, moment, first, length), to, length, err) ||
           err_note(err, "page file of the optimizer");
}

bool pages_write(Pages *p, int moment, size_t first, size_t length, const void *from, Err *err)
{
    return file_write_at(&p->writing, place_of(p, moment, first, length), from, length, err) ||
           err_note(err, "page file of the optimizer");
}
