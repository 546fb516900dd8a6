#pragma once
typedef unsigned int qos_class_t;
#define QOS_CLASS_USER_INITIATED 0x19u
#ifdef __cplusplus
extern "C" {
#endif
int pthread_set_qos_class_self_np(qos_class_t, int relative_priority);
#ifdef __cplusplus
}
#endif
