"""A device's secure element: a PKCS#11 token with the device's own key and certificate."""

from otahsm.token.element.keys import ElementKey, KeySpec, SecureElement
from otahsm.token.element.opening import element_opened, read_element_uri

__all__ = ["ElementKey", "KeySpec", "SecureElement", "element_opened", "read_element_uri"]
