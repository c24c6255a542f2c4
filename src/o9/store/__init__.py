"""The record: tables, the one transition, the ledger, leases and migrations. Imports only `o9.model`."""
