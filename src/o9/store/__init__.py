"""The record: tables, transitions, the ledger, leases and migrations. Imports only `o9.model`."""
