"""A factory line: device lists, keys, device folders, and resumable runs.

It uses the SDK (`otahsm.client`); it needs neither token nor database.
"""

from otahsm.line.archives import pack
from otahsm.line.batch_report import Tally, report_html, report_row
from otahsm.line.device_lists import (
    SEQUENCE,
    Device,
    DeviceList,
    devices_of_serials,
    listed_devices,
    numbered_devices,
    parse_namespace,
    random_devices,
    templated_devices,
)
from otahsm.line.elsewhere import leave_out_others
from otahsm.line.folders import DeviceFolders
from otahsm.line.issuing import Done, Failed, IssueOptions, issue_devices, sign_csrs
from otahsm.line.keys import make_csr, make_device_key
from otahsm.line.layouts import LayoutName
from otahsm.line.run import Run, refusals_of, unfinished_runs

__all__ = [
    "SEQUENCE",
    "Device",
    "DeviceFolders",
    "DeviceList",
    "Done",
    "Failed",
    "IssueOptions",
    "LayoutName",
    "Run",
    "Tally",
    "devices_of_serials",
    "issue_devices",
    "leave_out_others",
    "listed_devices",
    "make_csr",
    "make_device_key",
    "numbered_devices",
    "pack",
    "parse_namespace",
    "random_devices",
    "refusals_of",
    "report_html",
    "report_row",
    "sign_csrs",
    "templated_devices",
    "unfinished_runs",
]
