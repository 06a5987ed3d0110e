#include <stdlib.h>
#include <string.h>
int main(void){ char *p = malloc(64*4096); for(int r=0;r<3;r++) for (int i=0;i<64;i++) p[i*4096+r]=r+1; memset(p+4090,7,16); return p[5]; }
