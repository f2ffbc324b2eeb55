/* Stands in for the driver's libnvidia-ml.so.1: its symbols, its structures, its error numbers. What there is to see comes from
 * the environment. STUB_GPUS: "name:uuid:totalMiB:usedMiB[:mig],…"; a GPU with "mig" is cut into two instances at the places 0
 * and 2. STUB_INIT: an error number for the start. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
typedef struct { char name[64], uuid[96]; unsigned long long total, used; int mig, instance, parent; } Device;
static Device devices[48];
static int gpus, all;

int nvmlInitWithFlags(unsigned flags) {
  const char *failure = getenv("STUB_INIT"), *text = getenv("STUB_GPUS");
  if (failure) return atoi(failure);
  char copy[4096];
  snprintf(copy, sizeof copy, "%s", text ? text : "");
  gpus = all = 0;
  for (char *rest = copy, *one; (one = strsep(&rest, ",")) && *one;) {
    Device *device = &devices[gpus];
    memset(device, 0, sizeof *device);
    char mig[8] = "";
    sscanf(one, "%63[^:]:%95[^:]:%llu:%llu:%7s", device->name, device->uuid, &device->total, &device->used, mig);
    device->mig = strcmp(mig, "mig") == 0;
    device->total <<= 20, device->used <<= 20;
    gpus++;
  }
  all = gpus;
  for (int index = 0; index < gpus; index++)
    for (int place = 0; devices[index].mig && place <= 2; place += 2) {
      Device *instance = &devices[all++];
      *instance = devices[index];
      instance->mig = 0, instance->instance = 1 + place, instance->parent = index;
      instance->total /= 2, instance->used /= 4;
      snprintf(instance->uuid, sizeof instance->uuid, "MIG-%.80s-%d", devices[index].uuid + 4, place);
    }
  return OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Stub Error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = gpus; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  if ((int)index >= gpus) return INVALID_ARGUMENT;
  *device = &devices[index];
  return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
  for (int index = 0; index < all; index++)
    if (!strcmp(devices[index].uuid, uuid)) { *device = &devices[index]; return OK; }
  return NOT_FOUND;
}
int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
  if (device->instance) return INVALID_ARGUMENT;
  *current = *pending = device->mig;
  return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned place, Device **instance) {
  for (int index = gpus; index < all; index++)
    if (devices[index].parent == device - devices && devices[index].instance == 1 + (int)place) {
      *instance = &devices[index];
      return OK;
    }
  return NOT_FOUND;
}
int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long memory[3]) {
  memory[0] = device->total, memory[1] = device->total - device->used, memory[2] = device->used;
  return OK;
}
int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) { snprintf(text, length, "%s", device->uuid); return OK; }
int nvmlDeviceGetName(Device *device, char *text, unsigned length) { snprintf(text, length, "%s", device->name); return OK; }
int nvmlDeviceGetUtilizationRates(Device *device, unsigned rates[2]) {
  if (device->instance) return NOT_SUPPORTED;
  rates[0] = 37, rates[1] = 11;
  return OK;
}
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *celsius) {
  if (device->instance || sensor) return NOT_SUPPORTED;
  *celsius = 54;
  return OK;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
  if (device->instance) return NOT_SUPPORTED;
  *milliwatts = 71000;
  return OK;
}
