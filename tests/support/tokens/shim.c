/*
 * A PKCS#11 module for tests: forwards every call to another module (SHIM_MODULE), counts the calls that
 * matter, and misbehaves as the file SHIM_CONTROL says at that moment. The file holds words:
 *
 *   C_Sign=0x30      that function, any of them, returns CKR 0x30 and does nothing else
 *   C_Sign=hang      it never returns
 *   C_Sign=abort     it aborts the process
 *   C_Login=after    it does its work, and aborts the process then; C_Sign can't be told that
 *   C_Sign=1000ms    it takes so long
 *   flip             C_Sign succeeds, but one bit of the signature is wrong
 *   garbage          C_Sign succeeds, but the signature is all 0xff
 *   short            C_Sign succeeds, but the signature is one octet too short
 *   spoil            C_CreateObject succeeds, but one bit of CKA_VALUE is wrong
 *   forget           all sessions are closed before C_SignInit is forwarded
 *   logout           everyone is logged out before C_SignInit is forwarded
 *   away             there is no token in any slot, and who had it open has lost it
 *   no-slots         there is no slot
 *   no-read-only     sessions must be read-write
 *   final-try        the token says that one more wrong PIN locks it
 *   locked           the token says that its PIN is locked
 *   slow             C_Sign takes 20 ms, and 16 at once in all processes are as many as there may be
 *   once             whatever the file says is done once: who can remove the file SHIM_CONTROL.once does it
 *
 * Each C_Login and C_Sign appends a line to the file SHIM_LOG, C_Login another when it is done, and a slow
 * C_Sign another if it took the last slot. The line of a C_Sign is "sign <octets> <data in hex>", and is there
 * before the token is asked. Every line is one write(2), and begins with a newline, too: a process that is
 * killed in the middle of it spoils no line but its own, which has less data than it says. "open" and "close" are
 * the sessions that were opened and closed.
 * SHIM_SLOTS names the semaphore (sem_overview(7)) that counts the slow ones.
 *
 * The function list is a version and then the functions in the order of PKCS#11 v2.40, section 4.5. Each takes
 * at most eight arguments, all of them integers or pointers: so one wrapper does for all.
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
typedef CK_RV (*function)(CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG, CK_ULONG);

static const char *const names[] = {
    "C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo",
    "C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN",
    "C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState",
    "C_SetOperationState", "C_Login", "C_Logout", "C_CreateObject", "C_CopyObject", "C_DestroyObject",
    "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects",
    "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit",
    "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate",
    "C_DigestKey", "C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal",
    "C_SignRecoverInit", "C_SignRecover", "C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal",
    "C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate", "C_DecryptDigestUpdate",
    "C_SignEncryptUpdate", "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey",
    "C_UnwrapKey", "C_DeriveKey", "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus",
    "C_CancelFunction", "C_WaitForSlotEvent",
};
enum { FUNCTIONS = sizeof names / sizeof names[0] };
enum {
    GET_SLOT_LIST = 4, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, CLOSE_SESSION = 13, CLOSE_ALL_SESSIONS = 14,
    LOGIN = 18, LOGOUT = 19, CREATE_OBJECT = 20, SIGN_INIT = 42, SIGN = 43,
};
enum { CKF_RW_SESSION = 2, CKR_OK = 0, CKR_GENERAL_ERROR = 0x05, CKR_FUNCTION_FAILED = 0x06, CKR_TOKEN_NOT_PRESENT = 0xE0, CKR_DEVICE_REMOVED = 0x32 };
enum { TOKEN_FLAGS_OFFSET = 96, CKF_USER_PIN_FINAL_TRY = 0x20000, CKF_USER_PIN_LOCKED = 0x40000 };
enum { CKA_VALUE = 0x11 };
enum { SLOTS = 16, FIRST_WITH_A_SESSION = 13 };

struct function_list {
    unsigned char version[2];
    void *functions[FUNCTIONS];
};

struct attribute {
    CK_ULONG type;
    CK_BYTE *value;
    CK_ULONG length;
};

static struct function_list real, ours;
static sem_t *slots;
static CK_ULONG last_slot;

static CK_RV call(int number, CK_ULONG a, CK_ULONG b, CK_ULONG c, CK_ULONG d, CK_ULONG e, CK_ULONG f, CK_ULONG g,
                  CK_ULONG h) {
    return ((function)real.functions[number])(a, b, c, d, e, f, g, h);
}

static void read_control(char *text, size_t room) {
    memset(text, 0, room);
    int file = open(getenv("SHIM_CONTROL"), O_RDONLY);
    if (file < 0) return;
    if (read(file, text, room - 1) < 0) text[0] = 0;
    close(file);
}

static int my_turn(const char *text) {
    if (strstr(text, "once") == NULL) return 1;
    char marker[4096];
    snprintf(marker, sizeof marker, "%s.once", getenv("SHIM_CONTROL"));
    return unlink(marker) == 0;
}

static int told(const char *word) {
    char text[256];
    read_control(text, sizeof text);
    return strstr(text, word) != NULL && my_turn(text);
}

/* What a function is told to do instead: returns whether it is to return `result` at once. */
static int told_of(int number, CK_RV *result) {
    char text[256], word[64];
    read_control(text, sizeof text);
    snprintf(word, sizeof word, "%s=", names[number]);
    const char *found = strstr(text, word);
    if (found == NULL || strncmp(found + strlen(word), "after", 5) == 0 || !my_turn(text)) return 0;
    const char *action = found + strlen(word);
    if (strncmp(action, "hang", 4) == 0) for (;;) pause();
    if (strncmp(action, "abort", 5) == 0) abort();
    char *end;
    *result = strtoul(action, &end, 0);
    if (strncmp(end, "ms", 2) != 0) return 1;
    usleep(1000 * *result);
    return 0;
}

static int told_to_abort_after(int number) {
    char word[64];
    snprintf(word, sizeof word, "%s=after", names[number]);
    return told(word);
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

static CK_RV token_info(CK_ULONG slot, CK_BYTE *info) {
    CK_RV result = call(GET_TOKEN_INFO, slot, (CK_ULONG)info, 0, 0, 0, 0, 0, 0);
    CK_ULONG flags;
    memcpy(&flags, info + TOKEN_FLAGS_OFFSET, sizeof flags);
    if (told("final-try")) flags |= CKF_USER_PIN_FINAL_TRY;
    if (told("locked")) flags |= CKF_USER_PIN_LOCKED;
    memcpy(info + TOKEN_FLAGS_OFFSET, &flags, sizeof flags);
    return result;
}

static CK_RV sign(CK_ULONG session, CK_BYTE *data, CK_ULONG length, CK_BYTE *signature, CK_ULONG *size) {
    CK_RV result;
    count_sign(data, length);
    if (told_of(SIGN, &result)) return result;
    int slow = told("slow");
    if (slow) {
        int left = 0;
        sem_wait(slots);
        if (sem_getvalue(slots, &left) == 0 && left == 0) count("\nfull\n");
        usleep(20 * 1000);
    }
    result = call(SIGN, session, (CK_ULONG)data, length, (CK_ULONG)signature, (CK_ULONG)size, 0, 0, 0);
    if (slow) sem_post(slots);
    if (result != CKR_OK) return result;
    if (told("flip")) signature[*size - 1] ^= 1;
    if (told("garbage")) memset(signature, 0xff, *size);
    if (told("short")) *size -= 1;
    return result;
}

static void spoil(struct attribute *template, CK_ULONG count) {
    for (; count > 0; template++, count--) {
        if (template->type != CKA_VALUE) continue;
        CK_BYTE *copy = malloc(template->length);
        if (copy == NULL) abort();
        memcpy(copy, template->value, template->length);
        copy[template->length - 1] ^= 1;
        template->value = copy;
    }
}

static CK_RV forward(int number, CK_ULONG a, CK_ULONG b, CK_ULONG c, CK_ULONG d, CK_ULONG e, CK_ULONG f, CK_ULONG g,
                     CK_ULONG h) {
    CK_RV result;
    if (number == SIGN && d == 0) return call(number, a, b, c, d, e, f, g, h); /* it asks for the size */
    if (number == SIGN) return sign(a, (CK_BYTE *)b, c, (CK_BYTE *)d, (CK_ULONG *)e);
    if (number == LOGIN) count("\nlogin\n");
    if (told("away")) {
        if (number == GET_SLOT_LIST) a = 0; /* the slots are there */
        if (number == GET_TOKEN_INFO || number == OPEN_SESSION) return CKR_TOKEN_NOT_PRESENT;
        if (number >= FIRST_WITH_A_SESSION) return CKR_DEVICE_REMOVED;
    }
    if (number == OPEN_SESSION && !(b & CKF_RW_SESSION) && told("no-read-only")) return CKR_FUNCTION_FAILED;
    if (number == GET_SLOT_LIST && told("no-slots")) {
        *(CK_ULONG *)c = 0;
        return CKR_OK;
    }
    if (number == SIGN_INIT && told("forget")) call(CLOSE_ALL_SESSIONS, last_slot, 0, 0, 0, 0, 0, 0, 0);
    if (number == SIGN_INIT && told("logout")) call(LOGOUT, a, 0, 0, 0, 0, 0, 0, 0);
    if (number == CREATE_OBJECT && told("spoil")) spoil((struct attribute *)b, c);
    if (told_of(number, &result)) return result;
    if (number == GET_TOKEN_INFO) return token_info(a, (CK_BYTE *)b);
    result = call(number, a, b, c, d, e, f, g, h);
    if (told_to_abort_after(number)) abort();
    if (number == LOGIN) count("\nlogin-done\n");
    if (number == OPEN_SESSION && result == CKR_OK) {
        last_slot = a;
        count("\nopen\n");
    }
    if (number == CLOSE_SESSION && result == CKR_OK) count("\nclose\n");
    return result;
}

#define WRAPPER(n)                                                                                            \
    static CK_RV wrapper_##n(CK_ULONG a, CK_ULONG b, CK_ULONG c, CK_ULONG d, CK_ULONG e, CK_ULONG f, CK_ULONG g, \
                             CK_ULONG h) {                                                                    \
        return forward(n, a, b, c, d, e, f, g, h);                                                            \
    }
#define TEN(X, t) X(t##0) X(t##1) X(t##2) X(t##3) X(t##4) X(t##5) X(t##6) X(t##7) X(t##8) X(t##9)
#define EACH(X) TEN(X, ) TEN(X, 1) TEN(X, 2) TEN(X, 3) TEN(X, 4) TEN(X, 5) \
    X(60) X(61) X(62) X(63) X(64) X(65) X(66) X(67)
#define LISTED(n) wrapper_##n,
EACH(WRAPPER)
static void *const wrappers[FUNCTIONS] = {EACH(LISTED)};

CK_RV C_GetFunctionList(struct function_list **list) {
    void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
    CK_RV (*get)(struct function_list **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
    struct function_list *found;
    if (get == NULL || get(&found) != 0) return CKR_GENERAL_ERROR;
    slots = sem_open(getenv("SHIM_SLOTS"), O_CREAT, 0600, SLOTS);
    if (slots == SEM_FAILED) return CKR_GENERAL_ERROR;
    real = *found;
    ours = real;
    memcpy(ours.functions, wrappers, sizeof wrappers);
    *list = &ours;
    return CKR_OK;
}
