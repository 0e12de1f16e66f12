/*
 * A PKCS#11 module for tests: forwards every call to another module (SHIM_MODULE), counts the calls that
 * matter, and misbehaves as the file SHIM_CONTROL says at that moment. The file holds words:
 *
 *   flip          C_Sign succeeds, but one bit of the signature is wrong
 *   hang          C_Sign never returns
 *   crash         C_Sign aborts the process
 *   device-error  C_Sign returns CKR_DEVICE_ERROR
 *   final-try     the token says that one more wrong PIN locks it
 *   locked        the token says that its PIN is locked
 *   login-crash   C_Login aborts the process before the token answers
 *   login-slow    C_Login takes a second
 *   slow          C_Sign takes 20 ms, and 16 at once in all processes are as many as there may be
 *
 * Each C_Login and C_Sign appends a line to the file SHIM_LOG, C_Login another when it is done, and a slow
 * C_Sign another if it took the last slot. The line of a C_Sign is "sign <octets> <data in hex>", and is there
 * before the token is asked. Every line is one write(2), and begins with a newline, too: a process that is
 * killed in the middle of it spoils no line but its own, which has less data than it says.
 * SHIM_SLOTS names the semaphore (sem_overview(7)) that counts the slow ones.
 *
 * The function list is a version and then the functions in the order of PKCS#11 v2.40, section 4.5.
 */
#define _DEFAULT_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef unsigned char CK_BYTE;

enum { FUNCTIONS = 68, GET_TOKEN_INFO = 6, LOGIN = 18, SIGN = 43 };
enum { CKR_DEVICE_ERROR = 0x30, CKR_GENERAL_ERROR = 0x05 };
enum { TOKEN_FLAGS_OFFSET = 96, CKF_USER_PIN_FINAL_TRY = 0x20000, CKF_USER_PIN_LOCKED = 0x40000 };

struct function_list {
    unsigned char version[2];
    void *functions[FUNCTIONS];
};

enum { SLOTS = 16 };

static struct function_list real, ours;
static sem_t *slots;

static int told(const char *word) {
    char text[256] = {0};
    int file = open(getenv("SHIM_CONTROL"), O_RDONLY);
    if (file < 0) return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    return size > 0 && strstr(text, word) != NULL;
}

static void note(const char *line, size_t length) {
    int file = open(getenv("SHIM_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file < 0 || write(file, line, length) != (ssize_t)length) abort();
    close(file);
}

static void count(const char *line) {
    note(line, strlen(line));
}

static void count_sign(const CK_BYTE *data, CK_ULONG length) {
    char *line = malloc(2 * length + 64);
    if (line == NULL) abort();
    size_t at = sprintf(line, "\nsign %lu ", length);
    for (CK_ULONG octet = 0; octet < length; octet++) {
        line[at++] = "0123456789abcdef"[data[octet] >> 4];
        line[at++] = "0123456789abcdef"[data[octet] & 15];
    }
    line[at++] = '\n';
    note(line, at);
    free(line);
}

static CK_RV login(CK_ULONG session, CK_ULONG user, CK_BYTE *pin, CK_ULONG length) {
    count("\nlogin\n");
    if (told("login-crash")) abort();
    if (told("login-slow")) sleep(1);
    CK_RV (*forward)(CK_ULONG, CK_ULONG, CK_BYTE *, CK_ULONG) = real.functions[LOGIN];
    CK_RV result = forward(session, user, pin, length);
    count("\nlogin-done\n");
    return result;
}

static CK_RV get_token_info(CK_ULONG slot, CK_BYTE *info) {
    CK_RV result = ((CK_RV(*)(CK_ULONG, CK_BYTE *))real.functions[GET_TOKEN_INFO])(slot, info);
    CK_ULONG flags;
    memcpy(&flags, info + TOKEN_FLAGS_OFFSET, sizeof flags);
    if (told("final-try")) flags |= CKF_USER_PIN_FINAL_TRY;
    if (told("locked")) flags |= CKF_USER_PIN_LOCKED;
    memcpy(info + TOKEN_FLAGS_OFFSET, &flags, sizeof flags);
    return result;
}

static CK_RV sign(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *size) {
    CK_RV (*forward)(CK_ULONG, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *) = real.functions[SIGN];
    if (signature == NULL) return forward(session, data, length, signature, size);
    count_sign(data, length);
    if (told("hang")) for (;;) pause();
    if (told("crash")) abort();
    if (told("device-error")) return CKR_DEVICE_ERROR;
    if (told("slow")) {
        int left = 0;
        sem_wait(slots);
        if (sem_getvalue(slots, &left) == 0 && left == 0) count("\nfull\n");
        usleep(20 * 1000);
        CK_RV result = forward(session, data, length, signature, size);
        sem_post(slots);
        return result;
    }
    CK_RV result = forward(session, data, length, signature, size);
    if (result == 0 && told("flip")) signature[*size - 1] ^= 1;
    return result;
}

CK_RV C_GetFunctionList(struct function_list **list) {
    void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
    CK_RV (*get)(struct function_list **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    struct function_list *found;
    if (get == NULL || get(&found) != 0) return CKR_GENERAL_ERROR;
    slots = sem_open(getenv("SHIM_SLOTS"), O_CREAT, 0600, SLOTS);
    if (slots == SEM_FAILED) return CKR_GENERAL_ERROR;
    real = *found;
    ours = real;
    ours.functions[LOGIN] = login;
    ours.functions[GET_TOKEN_INFO] = get_token_info;
    ours.functions[SIGN] = sign;
    *list = &ours;
    return 0;
}
