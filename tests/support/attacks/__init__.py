"""Clients, requests and database rows that mean harm."""
