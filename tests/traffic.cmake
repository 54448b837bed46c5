# Kernels whose memory traffic is counted on emulated threads (tests/bench/traffic.h): cuda.traffic holds them to what they
# should move, bench_traffic prints the table of RESULTS.md.
file(GLOB traffic_sources CONFIGURE_DEPENDS bench/traffic*.c)
add_library(qlora_traffic STATIC EXCLUDE_FROM_ALL ${traffic_sources})
target_link_libraries(qlora_traffic PUBLIC qlora_optim_count qlora_model_count)

add_executable(bench_traffic EXCLUDE_FROM_ALL bench/bench_traffic.c)
add_executable(cuda_traffic cuda/test_traffic.c)
target_link_libraries(bench_traffic PRIVATE qlora_traffic)
target_link_libraries(cuda_traffic PRIVATE qlora_traffic ${CMOCKA_LIBRARY})
set_target_properties(bench_traffic cuda_traffic PROPERTIES LINKER_LANGUAGE CXX)
add_dependencies(cuda_emulated_tests cuda_traffic)
qlora_cuda_add_test(cuda.traffic cuda_traffic)
