#include "trainer/config_scalar.h"

#include "base/check.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool because(char why[WHY_MAX], const char *text)
{
    snprintf(why, WHY_MAX, "%s", text);
    return false;
}

static bool is_any(const char *text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(text, words[i]) == 0) return true;
    }
    return false;
}

static size_t digits(const char *text)
{
    return strspn(text, "0123456789");
}

/* Bytes of the decimal number at the start of text; 0 when there is none. `whole`: it has neither point nor exponent. */
static size_t number_length(const char *text, bool *whole)
{
    size_t n = text[0] == '-' || text[0] == '+';
    const size_t before = digits(text + n);
    n += before;
    size_t after = 0;
    *whole = true;
    if (text[n] == '.') {
        after = digits(text + n + 1);
        n += 1 + after;
        *whole = false;
    }
    if (before + after == 0) return 0;
    if (text[n] == 'e' || text[n] == 'E') {
        const size_t sign = text[n + 1] == '-' || text[n + 1] == '+';
        const size_t exponent = digits(text + n + 1 + sign);
        if (exponent == 0) return 0;
        n += 1 + sign + exponent;
        *whole = false;
    }
    return n;
}

static bool outside(char why[WHY_MAX], double low, double high)
{
    char from[40];
    char to[40];
    snprintf(why, WHY_MAX, "is outside %s..%s", scalar_print_real(low, from, sizeof from),
             scalar_print_real(high, to, sizeof to));
    return false;
}

/* The number at the start of text as a finite double; *rest is what follows it. */
static bool number_read(double *out, const char *text, const char **rest, bool *whole, char why[WHY_MAX])
{
    static const char *const not_finite[] = {"nan",   ".nan", "inf",   ".inf",     "-inf",
                                             "-.inf", "+inf", "+.inf", "infinity", "-infinity"};
    if (is_any(text, not_finite, ARRAY_COUNT(not_finite))) return because(why, "is not a finite number");
    const size_t n = number_length(text, whole);
    if (n == 0) return because(why, "is not a number");
    const char *first = text + (text[0] == '-' || text[0] == '+');
    if (first[0] == '0' && isdigit((unsigned char)first[1])) {
        return because(why, "has a leading zero, which some YAML readers take for octal; remove it");
    }
    *out = strtod(text, NULL);
    if (!isfinite(*out)) return because(why, "is too large for a number");
    *rest = text + n;
    return true;
}

static bool int_outside(char why[WHY_MAX], double low, double high)
{
    /* 2^63 - 1 is no double; its neighbour stands for it in the table. */
    const bool open_end = high >= 0x1p63;
    snprintf(why, WHY_MAX, "is outside %.0f..%" PRId64, low, open_end ? INT64_MAX : (int64_t)high);
    return false;
}

bool scalar_real(double *out, const char *text, double low, double high, char why[WHY_MAX])
{
    const char *rest;
    bool whole;
    double value;
    if (!number_read(&value, text, &rest, &whole, why)) return false;
    if (*rest) return because(why, "is not a number");
    if (value < low || value > high) return outside(why, low, high);
    *out = value == 0 ? 0 : value; /* -0 is 0 */
    return true;
}

bool scalar_int(int64_t *out, const char *text, double low, double high, char why[WHY_MAX])
{
    enum { EXACT_BITS = 53 };
    const char *rest;
    bool whole;
    double real;
    if (!number_read(&real, text, &rest, &whole, why)) {
        return strcmp(why, "is not a number") == 0 ? because(why, "is not a whole number") : false;
    }
    if (*rest) return because(why, "is not a whole number");
    int64_t value;
    if (whole) {
        errno = 0;
        value = strtoll(text, NULL, 10);
        if (errno == ERANGE) return int_outside(why, low, high);
    } else {
        if (real != floor(real)) return because(why, "is not a whole number");
        if (fabs(real) > ldexp(1, EXACT_BITS)) return int_outside(why, low, high);
        value = (int64_t)real;
    }
    if ((double)value < low || (double)value > high) return int_outside(why, low, high);
    *out = value;
    return true;
}

bool scalar_share(double *out, const char *text, double low, double high, char why[WHY_MAX])
{
    double value = 0;
    if (!scalar_real(&value, text, low, high, why)) return false;
    if (value > 1 && value != floor(value)) return because(why, "is neither a share below 1 nor a whole number");
    *out = value;
    return true;
}

bool scalar_size(int64_t *out, const char *text, char why[WHY_MAX])
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {
        {"",    1            },
        {"KiB", 1024         },
        {"MiB", 1048576      },
        {"GiB", 1073741824   },
        {"TiB", 1099511627776},
        {"KB",  1e3          },
        {"MB",  1e6          },
        {"GB",  1e9          },
        {"TB",  1e12         },
    };
    static const double least = 1048576;
    static const double most = 1e18;
    const char *rest;
    bool whole;
    double value;
    if (!number_read(&value, text, &rest, &whole, why)) {
        return because(why, "is not a size; write auto, or a number with a unit such as 4GiB");
    }
    while (*rest == ' ')
        rest++;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (strcasecmp(rest, units[i].name) != 0) continue;
        value *= units[i].bytes;
        if (value < least) return because(why, "is less than 1MiB; write a unit, such as 4GiB");
        if (value > most) return because(why, "is too large for a size");
        *out = (int64_t)value;
        return true;
    }
    return because(why, "has an unknown unit; known: KiB, MiB, GiB, TiB, KB, MB, GB, TB");
}

bool scalar_minutes(double *out, const char *text, double low, double high, char why[WHY_MAX])
{
    const char *rest;
    bool whole;
    double value;
    if (!number_read(&value, text, &rest, &whole, why))
        return because(why, "is not a duration; write 15, 90s, 15m or 2h");
    while (*rest == ' ')
        rest++;
    if (strcmp(rest, "s") == 0) {
        value /= 60;
    } else if (strcmp(rest, "h") == 0) {
        value *= 60;
    } else if (*rest && strcmp(rest, "m") != 0 && strcmp(rest, "min") != 0) {
        return because(why, "has an unknown unit; known: s, m, h");
    }
    if (value < low || value > high) {
        (void)outside(why, low, high);
        strncat(why, " minutes", WHY_MAX - strlen(why) - 1);
        return false;
    }
    *out = value == 0 ? 0 : value;
    return true;
}

bool scalar_bool(bool *out, const char *text, char why[WHY_MAX])
{
    static const char *const yes[] = {"yes", "y", "on", "1", "enable", "enabled"};
    static const char *const no[] = {"no", "n", "off", "0", "none", "disable", "disabled"};
    if (strcmp(text, "true") == 0 || strcmp(text, "True") == 0 || strcmp(text, "TRUE") == 0) {
        *out = true;
    } else if (strcmp(text, "false") == 0 || strcmp(text, "False") == 0 || strcmp(text, "FALSE") == 0) {
        *out = false;
    } else if (is_any(text, yes, ARRAY_COUNT(yes))) {
        return because(why, "is neither true nor false; write true");
    } else if (is_any(text, no, ARRAY_COUNT(no))) {
        return because(why, "is neither true nor false; write false");
    } else {
        return because(why, "is neither true nor false");
    }
    return true;
}

bool scalar_choice(int *out, const char *text, const ConfigField *f, char why[WHY_MAX])
{
    char choice[60];
    size_t used = (size_t)snprintf(why, WHY_MAX, "is not one of");
    for (int i = 0; config_choice(f, i, choice, sizeof choice); i++) {
        if (strcasecmp(text, choice) == 0) {
            *out = i;
            return true;
        }
        if (used < WHY_MAX) used += (size_t)snprintf(why + used, WHY_MAX - used, "%s %s", i ? "," : "", choice);
    }
    return false;
}

const char *scalar_print_real(double value, char *out, size_t size)
{
    enum { DIGITS_MAX = 17 };
    static const double without_exponent = 1e15;
    if (value == floor(value) && fabs(value) < without_exponent) {
        snprintf(out, size, "%.0f", value);
        return out;
    }
    for (int precision = 6; precision <= DIGITS_MAX; precision++) {
        snprintf(out, size, "%.*g", precision, value);
        if (strtod(out, NULL) == value) break;
    }
    return out;
}
