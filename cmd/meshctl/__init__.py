"""The command line: `meshctl`."""
