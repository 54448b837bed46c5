#include <stdio.h>

int main(void)
{
    puts("qlora " QLORA_VERSION);
    return 0;
}
