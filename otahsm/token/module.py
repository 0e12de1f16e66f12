"""Loads a PKCS#11 module, for one thread or for several."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import pkcs11
from pkcs11._pkcs11 import lib as Library  # noqa: N812 - it is a class, and the function hides its name

from otahsm.errors import TokenRefusedError, TokenUnavailableError

_CKF_OS_LOCKING_OK: Final = 0x2
_CKR_OK: Final = 0x0
_CKR_CANT_LOCK: Final = 0xA
_CKR_CRYPTOKI_ALREADY_INITIALIZED: Final = 0x191


class _InitializeArguments(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS (PKCS#11 v2.40, section 3.7)."""

    _fields_ = (
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


class _FunctionList(ctypes.Structure):
    """The beginning of CK_FUNCTION_LIST (section 4.5): as much as is needed here."""

    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("initialize", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


class _LibraryForThreads(Library):
    """python-pkcs11 initialises a module for one thread; this says that there will be several.

    Its `initialize` is the one place where that is decided, and it may be overridden.
    """

    def initialize(self) -> None:
        """Call C_Initialize with CKF_OS_LOCKING_OK: the module is to lock with what the system has."""
        functions = ctypes.POINTER(_FunctionList)()
        module = ctypes.CDLL(self.so)
        result = module.C_GetFunctionList(ctypes.byref(functions))
        if result == _CKR_OK:
            arguments = _InitializeArguments(flags=_CKF_OS_LOCKING_OK)
            result = functions.contents.initialize(ctypes.byref(arguments))
        if result == _CKR_CANT_LOCK:
            raise TokenRefusedError(
                "the PKCS#11 module does not support threads (CKR_CANT_LOCK)",
                hint="Set [token] sessions = 1, and use more signers instead.",
            )
        if result not in (_CKR_OK, _CKR_CRYPTOKI_ALREADY_INITIALIZED):
            raise TokenUnavailableError(f"can't initialise the PKCS#11 module (CKR {result:#x})")


def load(path: Path, *, threads: bool) -> Library:
    """Load a module, once in the life of a process.

    Args:
        path: the shared library.
        threads: whether several threads will use it, each with a session of its own.

    Raises:
        TokenRefusedError: threads are required, and the module does not support them.
        TokenUnavailableError: it can't be initialised; trying again in a new process may help.
        PKCS11Error, RuntimeError: as python-pkcs11.
    """
    return _LibraryForThreads(str(path)) if threads else pkcs11.lib(str(path))
