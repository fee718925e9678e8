// simt_check: every operation's kernels on small shapes. The cases are in NAME_cases.cpp.
#include "simt/check_main.h"

WSSS_CHECK_MAIN()
