package main

func named(*bench)      {}
func bigContext(*bench) {}
